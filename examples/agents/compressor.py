"""A helium compressor that trips at random, prints the reason on stderr and exits with code 3."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import threading
import time

TRIPPED = 3
REASONS = ("coolant flow too low", "oil temperature too high", "phase lost on L2")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mean-time-to-trip", type=float, default=20.0, help="seconds")
    arguments = parser.parse_args()

    stop = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stop.set())

    lasts = random.uniform(0.5, 1.5) * arguments.mean_time_to_trip
    trips_at = time.monotonic() + lasts
    print("compressor: running", flush=True)
    while not stop.wait(1.0):
        if time.monotonic() >= trips_at:
            print(f"compressor: TRIPPED: {random.choice(REASONS)}", file=sys.stderr, flush=True)
            return TRIPPED
        print(
            f"high side {random.gauss(20.6, 0.1):5.2f} bar  low side {random.gauss(5.4, 0.05):4.2f} bar",
            flush=True,
        )
    print("compressor: valves closed", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
