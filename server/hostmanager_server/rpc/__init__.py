"""The gRPC interface: protobuf types and status codes exist in this package and nowhere below."""
