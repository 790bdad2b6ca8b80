"""Unary calls over a unix socket without gRPC and protobuf, for short commands.

The import of gRPC and protobuf takes several times as long as a call. Here are only the parts of HTTP/2 and
of protobuf that one call needs. The full client takes over whenever anything unusual happens.
"""
