"""A thermometer readout that prints one reading per channel and interval."""

from __future__ import annotations

import argparse
import math
import random
import signal
import threading
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--setpoint", type=float, default=4.2, help="mean temperature, K")
    parser.add_argument("--channels", type=int, default=2)
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between readings")
    arguments = parser.parse_args()

    stop = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stop.set())

    print(f"thermometer: {arguments.channels} channels, every {arguments.interval:g} s", flush=True)
    while not stop.wait(arguments.interval):
        drift = 0.002 * math.sin(time.monotonic() / 30)
        readings = (
            arguments.setpoint * (1 + drift + random.gauss(0, 0.0005)) for _ in range(arguments.channels)
        )
        print("  ".join(f"ch{n} {kelvin:8.4f} K" for n, kelvin in enumerate(readings, start=1)), flush=True)
    print("thermometer: excitation off, bye", flush=True)


if __name__ == "__main__":
    main()
