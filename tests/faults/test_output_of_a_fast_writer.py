"""Deaths of the daemon while it rotates the output of an agent at ten megabytes a second."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from hostmanager.v1 import host_manager_pb2 as pb

from tests.e2e.daemon import Site
from tests.waiting import wait_until

DEATHS = 4
# Writes blocks of 100 numbered lines until SIGINT, then stores the number of lines.
WRITER = """
import os, signal, time
stops = []
signal.signal(signal.SIGINT, lambda *_: stops.append(1))
number = 0
while not stops:
    block = b"".join(b"%099d\\n" % n for n in range(number, number + 100))
    while block:
        block = block[os.write(1, block):]
    number += 100
    time.sleep(0.005)
with open("written", "w") as file:
    file.write(str(number))
"""


def archives(logs: Path) -> list[Path]:
    """Return the archives, oldest first."""
    numbers = [path.name.removeprefix("a.log.") for path in logs.glob("a.log.*")]
    ordered = sorted((int(number) for number in numbers if number.isdecimal()), reverse=True)
    return [logs / f"a.log.{number}" for number in ordered]


def wait_for_an_archive(logs: Path) -> None:
    before = len(archives(logs))
    wait_until(lambda: len(archives(logs)) > before, "a rotation")


def test_deaths_during_rotation_lose_and_repeat_no_line(site: Site) -> None:
    (site.folder / "writer.py").write_text(WRITER)
    policy = {"size": "256K", "keep": 1000}
    site.write([{"instance-id": "a", "command": [sys.executable, "writer.py"], "log": policy}])
    logs = site.state_dir / "logs"
    daemon = site.start("--quiet")
    for _ in range(DEATHS):
        wait_for_an_archive(logs)
        daemon.end(signal.SIGKILL)
        daemon = site.start("--quiet")
        daemon.wait_for("a", pb.NEXT_ACTION_UP)
    assert daemon.end() == 0  # an orderly end finishes the present rotation
    written = int((site.folder / "written").read_text())
    number = 0
    rest = b""
    for file in [*archives(logs), logs / "a.log"]:
        data = file.read_bytes()
        if file.suffix == ".log":
            data = data.lstrip(b"\0")
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            assert line == b"%099d" % number, f"in {file.name}"
            number += 1
    assert (number, rest) == (written, b"")
