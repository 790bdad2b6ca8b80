"""Benchmark of rotated output files against a plain file, for a child that writes a lot.

A ratio above 1 is plausible: the kernel never writes back what rotation deletes in time, but slows the writer
of an ever growing file to the rate of the disk.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hostmanager_server.core.spec import LogPolicy
from hostmanager_server.drivers.output.output_files import OutputFiles

MIB = 1 << 20
WRITTEN = 1024 * MIB  # bytes in each round: enough for several checks by the rotator while the child writes
ROUNDS = 3

# Lines of 100 bytes in blocks of 64 KiB, as a child whose output is buffered writes them.
_CHILD = """
import os, sys, time
block = (b"x" * 99 + b"\\n") * 656
block, left = block[:65536], int(sys.argv[1])
begin = time.monotonic()
while left > 0:
    left -= os.write(1, block)
print(time.monotonic() - begin, file=sys.stderr)
"""


@dataclass(frozen=True, slots=True)
class LogRate:
    """One measurement: the median of the rounds."""

    what: str
    mib_per_second: float
    daemon_cpu_seconds: float  # user and system time of the process that rotates, per GiB written


def _write(fd: int) -> float:
    """Return the rate of one child that writes to `fd`, in MiB/s."""
    command = [sys.executable, "-c", _CHILD, str(WRITTEN)]
    seconds = float(subprocess.run(command, stdout=fd, stderr=subprocess.PIPE, check=True).stderr)
    return WRITTEN / MIB / seconds


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def run(directory: Path | None = None) -> list[LogRate]:
    """Measure plain and rotated files in turn, in a temporary directory below `directory`."""
    ours: list[float] = []
    plain: list[float] = []
    cpu: list[float] = []
    with tempfile.TemporaryDirectory(dir=directory) as name:
        path = Path(name)
        outputs = OutputFiles(path / "logs")
        try:
            for number in range(ROUNDS):
                fd = os.open(path / "plain", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o640)
                plain.append(_write(fd))
                os.close(fd)
                (path / "plain").unlink()  # with its dirty pages, which would delay the next round
                before = _cpu()
                fd = outputs.open_for_append(f"child{number}", LogPolicy())
                ours.append(_write(fd))
                os.close(fd)
                cpu.append((_cpu() - before) * 1024 * MIB / WRITTEN)
        finally:
            outputs.close()
    middle = ROUNDS // 2
    return [
        LogRate("a plain append-mode file", sorted(plain)[middle], 0.0),
        LogRate("an output file, rotated at 10 MiB, 5 kept", sorted(ours)[middle], sorted(cpu)[middle]),
    ]


def main() -> None:
    """Print both rates and their ratio."""
    rows = run()
    for row in rows:
        cpu = f"{row.daemon_cpu_seconds:6.2f} CPU-s of the daemon per GiB"
        print(f"{row.what:45} {row.mib_per_second:8.0f} MiB/s {cpu}")
    print(f"ratio {rows[1].mib_per_second / rows[0].mib_per_second:.2f}")


if __name__ == "__main__":
    main()
