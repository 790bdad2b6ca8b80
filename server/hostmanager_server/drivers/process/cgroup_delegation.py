"""The cgroup that the service manager or the operator delegated to the daemon.

A service manager marks a delegated cgroup with an extended attribute (systemd: `Delegate=yes`; see "Control
Group APIs and Delegation" in systemd's documentation). The daemon leaves any other cgroup alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import subprocess
from pathlib import Path

from hostmanager.values import dataclass

from hostmanager_server.core.digests import sha256
from hostmanager_server.drivers.exec import gate
from hostmanager_server.drivers.process.cgroup import Cgroups
from hostmanager_server.linux import child_signals

AUTO = "auto"
OFF = "off"
_MARKS = ("user.delegate", "trusted.delegate")  # systemd sets both; only root can read the second
_TRY = 10.0  # s that a shell may take to move itself into a cgroup
_log = logging.getLogger(__name__)


class CgroupUnusableError(Exception):
    """A cgroup that the daemon cannot use; the text gives the cgroup and the reason."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount of the cgroup2 file system.

    `root` is the shown part of the hierarchy, `point` the path of the mount.
    """

    root: str
    point: str
    device: int


def find_cgroups(wanted: str, state_dir: Path) -> Cgroups:
    """Return the place for the cgroups of runs, without a directory if none fits.

    `wanted` is AUTO (the daemon's own cgroup if delegated), OFF, or the path of a cgroup. For an unusable
    cgroup the function logs a warning, and runs get no cgroup.
    """
    if wanted == OFF:
        return Cgroups(None)
    try:
        mounts = parse_mounts(Path("/proc/self/mountinfo").read_text())
        parent = _delegated(mounts) if wanted == AUTO else _named(wanted, mounts)
        if parent is None:
            return Cgroups(None)
        # Several daemons may share a delegated cgroup, and each removes empty cgroups in its own directory.
        directory = f"{parent}/agents-{sha256(os.fsencode(state_dir.resolve())).hexdigest()[:8]}"
        _try(directory)
    except (CgroupUnusableError, OSError) as error:
        why = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else error
        asked = "" if wanted == AUTO else f" '{wanted}'"
        _log.warning(
            "cannot use the cgroup%s: %s; the daemon tracks agents without cgroups, by environment, session, "
            "descent and lock (see --cgroup)",
            asked,
            why,
        )
        return Cgroups(None)
    _log.info("each agent gets its own cgroup in %s", directory)
    return Cgroups(directory)


def parse_mounts(mountinfo: str) -> list[Mount]:
    """Return the cgroup2 mounts in the text of /proc/self/mountinfo.

    proc_pid_mountinfo(5) describes the format.
    """
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        if after.split(" ", 1)[0] == "cgroup2":
            fields = before.split(" ")
            major, minor = map(int, fields[2].split(":"))
            found.append(Mount(_unescaped(fields[3]), _unescaped(fields[4]), os.makedev(major, minor)))
    return found


def own_directory(membership: str, mounts: list[Mount]) -> str | None:
    """Return the mounted path of a cgroup2, from the text of /proc/PID/cgroup.

    Returns None when the process has no cgroup2, or no mount shows it.
    """
    path = next((line[3:] for line in membership.splitlines() if line.startswith("0::")), None)
    if path is None:
        return None
    for mount in mounts:
        root = mount.root.rstrip("/")
        if path == mount.root or path.startswith(f"{root}/"):
            return f"{mount.point.rstrip('/')}/{path[len(root) :].strip('/')}".rstrip("/")
    return None


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _delegated(mounts: list[Mount]) -> str | None:
    directory = own_directory(Path("/proc/self/cgroup").read_text(), mounts)
    if directory is None:
        return None
    return directory if any(_is_marked(directory, mark) for mark in _MARKS) else None


def _is_marked(directory: str, mark: str) -> bool:
    try:
        return os.getxattr(directory, mark) == b"1"
    except OSError:  # missing, or unreadable for this user
        return False


def _named(path: str, mounts: list[Mount]) -> str:
    directory = os.path.abspath(path)
    if not os.path.isdir(directory):
        raise CgroupUnusableError("there is no such directory; create the cgroup, or correct --cgroup")
    if os.stat(directory).st_dev not in {mount.device for mount in mounts}:
        raise CgroupUnusableError("the directory is not in a cgroup2 file system; correct --cgroup")
    return directory


def _try(directory: str) -> None:
    """Check that a child can move itself into a cgroup below this directory.

    A move needs rights over more than the target cgroup. Raises CgroupUnusableError or OSError.
    """
    group = f"{directory}/try"
    try:
        os.makedirs(group, exist_ok=True)
        with child_signals.unblocked():
            done = subprocess.run(
                [gate.SHELL, "-c", gate.JOIN, "try", group], stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, timeout=_TRY, check=False,
            )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise CgroupUnusableError("a process that moves itself into a cgroup there hangs") from None
    finally:
        for made in (group, directory):  # fails while runs have cgroups there
            with contextlib.suppress(OSError):
                os.rmdir(made)
    if done.returncode != 0:
        raise CgroupUnusableError(
            "a child may not move itself into a cgroup there; start the daemon in that cgroup, or as root"
        )
