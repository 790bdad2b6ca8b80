"""A detector readout with a vendor library that ignores SIGINT; SIGTERM ends the process."""

from __future__ import annotations

import argparse
import random
import signal
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--detectors", type=int, default=1760)
    arguments = parser.parse_args()

    signal.signal(signal.SIGINT, signal.SIG_IGN)

    block = 0
    while True:
        time.sleep(1.0)
        block += 1
        noise = random.gauss(18.0, 0.4)
        print(f"block {block}: {arguments.detectors} detectors, median noise {noise:.1f} aW/rtHz", flush=True)


if __name__ == "__main__":
    main()
