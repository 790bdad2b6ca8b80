"""The main process of a recorded run: found again, or how it ended."""

from __future__ import annotations

import os
import signal

from hostmanager_server.core.events import Adopted, ExitStatus
from hostmanager_server.drivers.exec import gate
from hostmanager_server.drivers.process.records.record import Record
from hostmanager_server.linux import pidfds
from hostmanager_server.linux.pidfds import Identity

GATE_ENDS = 1_000  # ms for a killed gate to end
_SHORTLY = 20  # ms for an exec or an exit to get on
_PATIENCE = 10


def find_main_process(record: Record, kept: int | None) -> int | ExitStatus:
    """A pidfd of the recorded main process, or how it ended as far as that can be told. `kept` is what was
    kept for it while no daemon lived.

    A process that had not become the agent when its daemon died is leaving, as its pipe is closed; it is not
    waited for but ended.
    """
    who = record.identity
    pidfd = pidfds.open_verified(who)
    if pidfd is None:
        # The number of a pidfd's inode is given once in a boot: this is the process, whoever has its pid now.
        if kept is not None and who.inode and pidfds.inode(kept) == who.inode:
            return pidfds.exit_status_of_non_child(who, kept)
        return ExitStatus()
    if not record.released and _is_in_gate(who.pid, pidfd):
        pidfds.send_signal(pidfd, signal.SIGKILL)
        pidfds.has_ended(pidfd, GATE_ENDS)
    if not pidfds.has_ended(pidfd):
        return pidfd
    try:
        return status_of_ended(who, pidfd)
    finally:
        os.close(pidfd)


def _is_in_gate(pid: int, pidfd: int) -> bool:
    for _ in range(_PATIENCE):
        # In the middle of an exec or an exit the command line reads empty.
        cmdline = _command_line(pid)
        if cmdline or pidfds.has_ended(pidfd, _SHORTLY):
            break
    return gate.still_in_gate(cmdline)


def _command_line(pid: int) -> bytes:
    try:
        return pidfds.read_file(f"/proc/{pid}/cmdline")
    except OSError:  # it ended meanwhile
        return b""


def status_of_ended(who: Identity, pidfd: int) -> ExitStatus:
    try:
        return pidfds.reap(pidfd) or ExitStatus()
    except ChildProcessError:
        return pidfds.exit_status_of_non_child(who, pidfd)


def adopted_run(
    record: Record, *, ended: ExitStatus | None = None, gone: bool = False, ready: bool = True
) -> Adopted:
    """What the driver tells of a recorded run that it took back."""
    return Adopted(
        record.run, record.identity.pid, record.started, record.process, ended, gone, ready,
        record.agent_class,
    )  # fmt: skip
