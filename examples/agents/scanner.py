"""A telescope scanner that asks the registry for fields, and so depends on the registry."""

from __future__ import annotations

import argparse
import socket
import sys
import time


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--registry-port", type=int, required=True)
    parser.add_argument("--interval", type=float, default=2.0, help="seconds between scans")
    arguments = parser.parse_args()

    try:
        with socket.create_connection(("127.0.0.1", arguments.registry_port), timeout=5.0) as connection:
            lines = connection.makefile("rw", encoding="utf-8")
            while True:
                lines.write("next\n")
                lines.flush()
                field = lines.readline().strip()
                if not field:
                    print("scanner: the registry hung up", file=sys.stderr)
                    return 1
                print(f"scanning {field}", flush=True)
                time.sleep(arguments.interval)
    except OSError as error:
        print(f"scanner: cannot ask the registry: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("scanner: parked", flush=True)
        return 0


if __name__ == "__main__":
    sys.exit(main())
