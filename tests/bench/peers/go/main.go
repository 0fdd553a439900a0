// A peer to measure beside Sidecar: an ext_authz server as one would write it with grpc-go.
//
// It prints its address, serves until its input ends, and knows three jobs:
//
//	bytes  answers OK without reading the message: the engine alone, as engine_process.py does
//	ok     the same with the message parsed by its generated code, as grpc-go does by itself
//	redis  knows the caller by a hash of the key, takes from four counters with one script, and
//	       answers with what is left as dynamic metadata
//
// The last is a smaller job than a check of Sidecar: no policy, price, hold, token or record of
// the decision, and nothing that could be taken back.
package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/redis/go-redis/v9"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
)

// Each counter has at least what is asked of it, or nothing is taken.
const take = `
local left = redis.call('HMGET', KEYS[1], 'credit', 'month', 'day', 'requests')
if not left[1] then return {-1} end
for i = 1, 4 do
  if tonumber(left[i]) < tonumber(ARGV[i]) then return {0} end
end
return {1,
  redis.call('HINCRBY', KEYS[1], 'credit', -ARGV[1]),
  redis.call('HINCRBY', KEYS[1], 'month', -ARGV[2]),
  redis.call('HINCRBY', KEYS[1], 'day', -ARGV[3]),
  redis.call('HINCRBY', KEYS[1], 'requests', -ARGV[4])}
`

var names = [4]string{"credit", "month", "day", "requests"}

// hasToken reads what every check of Sidecar reads of its metadata.
func hasToken(ctx context.Context) bool {
	incoming, _ := metadata.FromIncomingContext(ctx)
	return len(incoming.Get("x-sidecar-gateway")) == 1 && len(incoming.Get("x-sidecar-token")) == 1
}

type okServer struct {
	authv3.UnimplementedAuthorizationServer
}

func (okServer) Check(ctx context.Context, _ *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	if !hasToken(ctx) {
		return nil, grpcstatus.Error(codes.Unauthenticated, "no token")
	}
	return allowed(nil), nil
}

type redisServer struct {
	authv3.UnimplementedAuthorizationServer
	script string
	secret []byte
	store  redis.Scripter
}

func (s *redisServer) Check(ctx context.Context, asked *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	if !hasToken(ctx) {
		return nil, grpcstatus.Error(codes.Unauthenticated, "no token")
	}
	key, found := strings.CutPrefix(credential(asked.GetAttributes().GetRequest().GetHttp()), "Bearer ")
	if !found {
		return denied(typev3.StatusCode_Unauthorized), nil
	}
	mac := hmac.New(sha256.New, s.secret)
	mac.Write([]byte(key))
	customer := "peer:" + hex.EncodeToString(mac.Sum(nil))
	left, err := s.store.EvalSha(ctx, s.script, []string{customer}, 2_000, 50, 50, 1).Int64Slice()
	if err != nil {
		return nil, grpcstatus.Error(codes.Unavailable, err.Error())
	}
	switch left[0] {
	case -1:
		return denied(typev3.StatusCode_Unauthorized), nil
	case 0:
		return denied(typev3.StatusCode_PaymentRequired), nil
	}
	fields := make(map[string]*structpb.Value, len(names))
	for i, name := range names {
		fields[name] = structpb.NewNumberValue(float64(left[i+1]))
	}
	return allowed(&structpb.Struct{Fields: fields}), nil
}

// credential is the caller's header, in whichever of its two forms Envoy sent it.
func credential(http *authv3.AttributeContext_HttpRequest) string {
	if value, found := http.GetHeaders()["authorization"]; found {
		return value
	}
	for _, header := range http.GetHeaderMap().GetHeaders() {
		if header.GetKey() == "authorization" {
			return string(header.GetRawValue())
		}
	}
	return ""
}

func allowed(facts *structpb.Struct) *authv3.CheckResponse {
	return &authv3.CheckResponse{
		Status:          &status.Status{Code: int32(codes.OK)},
		HttpResponse:    &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}},
		DynamicMetadata: facts,
	}
}

func denied(code typev3.StatusCode) *authv3.CheckResponse {
	return &authv3.CheckResponse{
		Status: &status.Status{Code: int32(codes.PermissionDenied)},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status:  &typev3.HttpStatus{Code: code},
			Headers: []*corev3.HeaderValueOption{},
		}},
	}
}

// newStore shares one connection's round trips among all calls under way, or has one each.
func newStore(url string, pipeline bool) (*redis.Client, redis.Scripter, error) {
	options, err := redis.ParseURL(url)
	if err != nil {
		return nil, nil, err
	}
	client := redis.NewClient(options)
	if !pipeline {
		return client, client, nil
	}
	shared, err := client.AutoPipeline()
	return client, shared, err
}

func newServer(job, url, secret string, pipeline bool) (*grpc.Server, error) {
	switch job {
	case "bytes":
		server := grpc.NewServer(grpc.ForceServerCodecV2(bytesCodec{}))
		server.RegisterService(&bytesService, nil)
		return server, nil
	case "ok":
		server := grpc.NewServer()
		authv3.RegisterAuthorizationServer(server, okServer{})
		return server, nil
	case "redis":
		client, store, err := newStore(url, pipeline)
		if err != nil {
			return nil, err
		}
		script, err := client.ScriptLoad(context.Background(), take).Result()
		if err != nil {
			return nil, err
		}
		server := grpc.NewServer()
		authv3.RegisterAuthorizationServer(server, &redisServer{
			script: script, secret: []byte(secret), store: store,
		})
		return server, nil
	}
	return nil, fmt.Errorf("there is no job %q", job)
}

func main() {
	job := flag.String("job", "ok", "bytes, ok or redis")
	url := flag.String("redis", "", "where the counters are")
	secret := flag.String("secret", "", "what keys are hashed with")
	pipeline := flag.Bool("pipeline", false, "all calls share go-redis' automatic pipeline")
	flag.Parse()
	server, err := newServer(*job, *url, *secret, *pipeline)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		server.Stop()
	}()
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}
