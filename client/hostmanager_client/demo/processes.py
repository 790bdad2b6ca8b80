"""The processes of one demo, known by a variable in the environment that all of them inherit."""

from __future__ import annotations

import os
import secrets
import select
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

VARIABLE = "HOSTMANAGER_DEMO"


@dataclass(frozen=True, slots=True)
class Mark:
    """What the environment of every process of this demo contains, however it was started."""

    value: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def environment(self) -> dict[str, str]:
        return {VARIABLE: self.value}

    def pids(self, instance_id: str = "") -> list[int]:
        """The living processes of this demo; of one instance when it is named."""
        wanted = {f"{VARIABLE}={self.value}".encode()}
        if instance_id:
            wanted.add(f"HOSTMANAGER_INSTANCE_ID={instance_id}".encode())
        pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
        return [pid for pid in pids if wanted <= _environment(pid)]

    def kill(self, seconds: float) -> list[int]:
        """End every process of this demo by SIGKILL, within `seconds`; those it had to be sent to."""
        killed: list[int] = []
        deadline = time.monotonic() + seconds
        # Again and again: a process may have forked between the look and the signal.
        while (pids := self.pids()) and time.monotonic() < deadline:
            for pid in pids:
                self._kill(pid, deadline)
            killed += [pid for pid in pids if pid not in killed]
        return killed

    def _kill(self, pid: int, deadline: float) -> None:
        with suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            try:
                # Only now does the descriptor hold the process, so only now can it be told that it is ours.
                if f"{VARIABLE}={self.value}".encode() in _environment(pid):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    select.select([pidfd], [], [], max(0.0, deadline - time.monotonic()))
            finally:
                os.close(pidfd)


def _environment(pid: int) -> set[bytes]:
    """What is in the environment of a living process; nothing for one that ended or is another user's."""
    try:
        return set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:
        return set()
