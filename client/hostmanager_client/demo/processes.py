"""The processes of one demo, identified by an inherited environment variable."""

from __future__ import annotations

import os
import secrets
import select
import signal
import time
from contextlib import suppress
from pathlib import Path

from hostmanager.values import dataclass, field

VARIABLE = "HOSTMANAGER_DEMO"


@dataclass(frozen=True, slots=True)
class Mark:
    """The value of the variable in the environment of every process of the demo."""

    value: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def environment(self) -> dict[str, str]:
        """The variable for a new process."""
        return {VARIABLE: self.value}

    def pids(self, instance_id: str = "") -> list[int]:
        """Return the pids of the processes of the demo, or of one instance."""
        wanted = {f"{VARIABLE}={self.value}".encode()}
        if instance_id:
            wanted.add(f"HOSTMANAGER_INSTANCE_ID={instance_id}".encode())
        pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
        return [pid for pid in pids if wanted <= _environment(pid)]

    def kill(self, seconds: float) -> list[int]:
        """Kill every process of the demo within `seconds`; return the killed pids."""
        killed: list[int] = []
        deadline = time.monotonic() + seconds
        # Scan again after each pass, as a process may fork between the scan and the signal.
        while (pids := self.pids()) and time.monotonic() < deadline:
            for pid in pids:
                self._kill(pid, deadline)
            killed += [pid for pid in pids if pid not in killed]
        return killed

    def _kill(self, pid: int, deadline: float) -> None:
        with suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            try:
                # The pid may belong to another process by now; from here on the pidfd pins the process.
                if f"{VARIABLE}={self.value}".encode() in _environment(pid):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    select.select([pidfd], [], [], max(0.0, deadline - time.monotonic()))
            finally:
                os.close(pidfd)


def _environment(pid: int) -> set[bytes]:
    """Return the environment of a process; empty if the process has ended or is unreadable."""
    try:
        return set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:
        return set()
