"""The gRPC face: protobuf types and status codes exist in this package and nowhere below it."""
