"""The place of the daemon's own log: systemd's journal, or a file in the state directory."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

from hostmanager_server.core.spec import LogPolicy
from hostmanager_server.daemon.log import keep_in_file
from hostmanager_server.drivers.output.output_files import OutputFiles
from hostmanager_server.rpc.ports import OwnLog

log = logging.getLogger(__name__)

_SIZE = 1024 * 1024  # bytes of the live file; five older ones are kept
_SERVICE = re.compile(r"/([^/]+\.service)(?=/|$)")


def find_own_log(state_dir: Path, environ: Mapping[str, str], descriptor: int) -> OwnLog:
    """Return where the log of this daemon goes; `descriptor` is that of stderr."""
    if _is_journal(environ.get("JOURNAL_STREAM", ""), descriptor):
        return OwnLog(None, journal_command(_read("/proc/self/cgroup"), os.getpid()))
    return OwnLog(LogPolicy(str(state_dir), _SIZE))


def keep_own_log(own_log: OwnLog, outputs: OutputFiles) -> None:
    """Write the log also to its file, if there is one; without the file the daemon goes on."""
    if own_log.policy is None:
        keep_in_file(None)
        return
    try:
        keep_in_file(outputs.open_for_append(OwnLog.NAME, own_log.policy))
    except OSError as error:
        keep_in_file(None)
        path = outputs.path(OwnLog.NAME, own_log.policy)
        log.warning("cannot keep the log in %s: %s", path, error.strerror or error)


def journal_command(cgroup: str, pid: int) -> str:
    """Return the command that shows the log of a daemon in a cgroup of /proc/PID/cgroup."""
    names = _SERVICE.findall(cgroup)
    if not names:
        return f"journalctl _PID={pid}"
    user = "--user " if any(name.startswith("user@") for name in names[:-1]) else ""
    return f"journalctl {user}-u {names[-1]}"


def _is_journal(stream: str, descriptor: int) -> bool:
    """Return whether a descriptor is the journal's, by systemd's variable JOURNAL_STREAM."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return stream == f"{status.st_dev}:{status.st_ino}"


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
