#!/usr/bin/env bash
# grpcio before 1.84 judges the size of a message only when all of its bytes have arrived.
#
# Seen on Linux with Python 3.11: a server announces an answer of 8 MiB in the prefix of the message, above the
# client's limit of 4 MiB, and sends the bytes slowly. The client of grpcio 1.78.0 waits for them, until its deadline:
# DEADLINE_EXCEEDED. The client of grpcio 1.85.3 refuses the answer when it has read the prefix: RESOURCE_EXHAUSTED.
# So on older versions a too large answer on a slow link looks like a server that does not answer.
#
# The script installs the pinned packages into a temporary folder, runs a server of h2 (HTTP/2 without gRPC) and a
# client of each version on loopback, prints what each client says, and fails if that changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/try.py" <<'PY'
import socket
import threading

import grpc
import h2.config
import h2.connection
import h2.events

PREFIX = b"\0" + (8 * 2**20).to_bytes(4, "big")  # not compressed, 8 MiB


def serve(listener):
    peer, _ = listener.accept()
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    connection.initiate_connection()
    peer.sendall(connection.data_to_send())
    while data := peer.recv(65536):
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.StreamEnded):
                headers = [(":status", "200"), ("content-type", "application/grpc")]
                connection.send_headers(event.stream_id, headers)
                connection.send_data(event.stream_id, PREFIX + b"x" * 100)  # and the rest later
        peer.sendall(connection.data_to_send())


with socket.create_server(("127.0.0.1", 0)) as listener:
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    with grpc.insecure_channel(f"127.0.0.1:{listener.getsockname()[1]}") as channel:
        try:
            channel.unary_unary("/a.B/C")(b"", timeout=3)
        except grpc.RpcError as error:
            print(error.code().name)
PY

failed=0
expect() {
    local version=$1 expected=$2 seen
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install -q "grpcio==$version" h2==4.3.0
    seen=$("$folder/$version/bin/python" "$folder/try.py")
    echo "grpcio $version: $seen (expected: $expected)"
    [ "$seen" = "$expected" ] || failed=1
}
expect 1.78.0 DEADLINE_EXCEEDED
expect 1.85.3 RESOURCE_EXHAUSTED
exit "$failed"
