"""A camera server that starts its frame grabbers the old way: as daemons, in sessions of their own.

After the double fork they are nobody's children, and ending the server alone would leave them behind.
"""

from __future__ import annotations

import argparse
import os
import signal
import time


def grab_frames(camera: int, interval: float) -> None:
    """Be a frame grabber, for good."""
    frame = 0
    while True:
        time.sleep(interval)
        frame += 1
        print(f"camera {camera}: frame {frame} (grabber pid {os.getpid()})", flush=True)


def daemonise(camera: int, interval: float) -> None:
    """Start a grabber as a daemon: fork, setsid, fork."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.fork() == 0:
        grab_frames(camera, interval)
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cameras", type=int, default=2)
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between frames")
    arguments = parser.parse_args()

    # Before the first fork, so that what is buffered is not printed by every process.
    print(f"camera server: starting {arguments.cameras} grabbers", flush=True)
    for camera in range(1, arguments.cameras + 1):
        daemonise(camera, arguments.interval)
    try:
        while True:
            signal.pause()
    except KeyboardInterrupt:
        print("camera server: bye (and no word about the grabbers)", flush=True)


if __name__ == "__main__":
    main()
