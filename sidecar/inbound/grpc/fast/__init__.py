"""An HTTP/2 server for unary gRPC calls from this machine: RFC 9113, RFC 7541, gRPC over HTTP/2."""
