"""A camera server with frame grabbers that daemonise themselves, each in a new session.

After the double fork the grabbers are not children of the server, and survive a kill of the server alone.
"""

from __future__ import annotations

import argparse
import os
import signal
import time


def grab_frames(camera: int, interval: float) -> None:
    """Print frames for ever."""
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

    # Flush before the first fork, as each child would print the buffered text again.
    print(f"camera server: starting {arguments.cameras} grabbers", flush=True)
    for camera in range(1, arguments.cameras + 1):
        daemonise(camera, arguments.interval)
    try:
        while True:
            signal.pause()
    except KeyboardInterrupt:
        print("camera server: bye (the grabbers still run)", flush=True)


if __name__ == "__main__":
    main()
