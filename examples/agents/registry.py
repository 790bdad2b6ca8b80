"""A registry of fields to observe, which answers on a TCP port after a load time."""

from __future__ import annotations

import argparse
import itertools
import socketserver
import time

FIELDS = itertools.cycle(("RCW 38", "Tau A", "Saturn", "Mon R2"))


class Answer(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for _ in self.rfile:
            self.wfile.write(f"{next(FIELDS)}\n".encode())


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True  # a restart must not wait for connections of the previous run
    daemon_threads = True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--load-time", type=float, default=1.0, help="seconds before the port opens")
    arguments = parser.parse_args()

    print("registry: loading", flush=True)
    try:
        time.sleep(arguments.load_time)
        with Server(("127.0.0.1", arguments.port), Answer) as server:
            print(f"registry: answering on port {arguments.port}", flush=True)
            server.serve_forever()
    except KeyboardInterrupt:
        print("registry: closed", flush=True)


if __name__ == "__main__":
    main()
