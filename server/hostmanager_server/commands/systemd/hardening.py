"""Directives of the unit that take rights away from the daemon and its agents.

docs/how-to/systemd.md has the reason of each.

Agents inherit all of it. By default a daemon of root loses only what no agent of a lab is known to need, and
gets no new namespace: its agents outlive it, and would be in another one than the next daemon.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from hostmanager_server.core.spec import HostSpec

Directives = Iterator[tuple[str, str]]

_UNUSED_CAPABILITIES = (
    "CAP_AUDIT_CONTROL", "CAP_AUDIT_READ", "CAP_BLOCK_SUSPEND", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
    "CAP_LEASE", "CAP_MAC_ADMIN", "CAP_MAC_OVERRIDE", "CAP_PERFMON", "CAP_SYS_BOOT", "CAP_SYS_MODULE",
    "CAP_SYS_PACCT", "CAP_SYS_TTY_CONFIG", "CAP_WAKE_ALARM",
)  # fmt: skip
# Never made writable as a whole because an agent happens to run there.
_SYSTEM_FOLDERS = frozenset({
    "/", "/bin", "/boot", "/dev", "/efi", "/etc", "/home", "/lib", "/lib32", "/lib64", "/libx32", "/proc",
    "/root", "/run", "/sbin", "/sys", "/usr", "/var", "/var/lib", "/var/log", "/var/run",
})  # fmt: skip
TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108  # agents and other services meet there


def ordinary(*, of_root: bool) -> Directives:
    """Yield what every unit of the system has."""
    yield "KeyringMode", "private"
    yield "CapabilityBoundingSet", f"~{' '.join(_UNUSED_CAPABILITIES)}"
    if of_root:  # a filter of another user's unit would forbid sudo and all else that changes users
        yield "LockPersonality", "yes"
        yield "SystemCallArchitectures", "native"
        yield "SystemCallFilter", "~@cpu-emulation @module @obsolete @reboot @swap"
        yield "SystemCallErrorNumber", "EPERM"


def hardened(*, of_user: bool) -> Directives:
    """Yield what a unit has whose daemon is not root, and whose agents need no other rights than its own.

    A user's own service manager can make no file systems read-only, and take no capabilities away.
    """
    yield "NoNewPrivileges", "yes"
    if not of_user:
        yield "CapabilityBoundingSet", ""
        yield "KeyringMode", "private"
        yield "PrivateMounts", "yes"
        yield "ProtectHome", "read-only"
        yield "ProtectHostname", "yes"
        yield "ProtectKernelLogs", "yes"
        yield "ProtectKernelModules", "yes"
        yield "ProtectKernelTunables", "yes"
        yield "ProtectSystem", "strict"
    yield "LockPersonality", "yes"
    yield "RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6 AF_NETLINK"
    yield "RestrictNamespaces", "yes"
    yield "RestrictRealtime", "yes"
    yield "RestrictSUIDSGID", "yes"
    yield "SystemCallArchitectures", "native"
    yield "SystemCallFilter", "@system-service"
    yield "SystemCallFilter", "~@privileged"
    yield "SystemCallFilter", "@chown"  # a file may be handed to another group of one's own
    yield "SystemCallErrorNumber", "EPERM"
    yield "UMask", "0027"


def written_folders(spec: HostSpec) -> list[str]:
    """Return the folders that agents of this host run in, or log to, as far as the site config says."""
    found: dict[str, None] = {}
    for instance in spec.instances:
        if instance.process is not None:
            found[instance.log.directory] = None
            found[instance.process.working_dir] = None
    return [folder for folder in found if folder and folder not in _SYSTEM_FOLDERS]


def missing_folders(folders: Sequence[str]) -> list[str]:
    """Return those that are not there, which systemd cannot make writable."""
    return [folder for folder in folders if not Path(folder).is_dir()]
