package main

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	grpcstatus "google.golang.org/grpc/status"
)

// okAnswer is a CheckResponse whose status is OK, the bytes that engine_process.py answers.
var okAnswer = []byte{0x0a, 0x00}

// bytesCodec leaves messages as they came.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "bytes" }

func (bytesCodec) Marshal(message any) (mem.BufferSlice, error) {
	data, known := message.([]byte)
	if !known {
		return nil, fmt.Errorf("%T is no bytes", message)
	}
	return mem.BufferSlice{mem.SliceBuffer(data)}, nil
}

func (bytesCodec) Unmarshal(data mem.BufferSlice, message any) error {
	into, known := message.(*[]byte)
	if !known {
		return fmt.Errorf("%T is no bytes", message)
	}
	*into = data.Materialize()
	return nil
}

var bytesService = grpc.ServiceDesc{
	ServiceName: "envoy.service.auth.v3.Authorization",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Check",
		Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var message []byte
			if err := decode(&message); err != nil {
				return nil, err
			}
			if !hasToken(ctx) {
				return nil, grpcstatus.Error(codes.Unauthenticated, "no token")
			}
			return okAnswer, nil
		},
	}},
}
