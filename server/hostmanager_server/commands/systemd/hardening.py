"""Unit directives that take rights away from the daemon and its agents.

docs/how-to/systemd.md has the reason of each.

Agents inherit all restrictions of the daemon. By default a daemon of root loses only rights that no known
agent of a lab needs. The daemon gets no new namespace: agents outlive the daemon, and would then be in
another namespace than the next daemon.
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
# The unit never makes these writable as a whole, even if an agent runs there.
_SYSTEM_FOLDERS = frozenset({
    "/", "/bin", "/boot", "/dev", "/efi", "/etc", "/home", "/lib", "/lib32", "/lib64", "/libx32", "/proc",
    "/root", "/run", "/sbin", "/sys", "/usr", "/var", "/var/lib", "/var/log", "/var/run",
})  # fmt: skip
TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108  # agents share files there with other services


def ordinary(*, of_root: bool) -> Directives:
    """Yield the directives of every system unit that is not hardened."""
    yield "KeyringMode", "private"
    yield "CapabilityBoundingSet", f"~{' '.join(_UNUSED_CAPABILITIES)}"
    if of_root:  # in the unit of another user, a filter would forbid sudo and any other change of user
        yield "LockPersonality", "yes"
        yield "SystemCallArchitectures", "native"
        yield "SystemCallFilter", "~@cpu-emulation @module @obsolete @reboot @swap"
        yield "SystemCallErrorNumber", "EPERM"


def hardened(*, of_user: bool) -> Directives:
    """Yield the directives of a hardened unit.

    The daemon of such a unit is not root, and its agents need no other rights than the daemon's.
    The service manager of a user can neither make file systems read-only nor take capabilities away.
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
    yield (
        "SystemCallFilter",
        "@chown",
    )  # an owner may give a file to another of their groups
    yield "SystemCallErrorNumber", "EPERM"
    yield "UMask", "0027"


def written_folders(spec: HostSpec) -> list[str]:
    """Return the folders in the site config that agents run in or log to."""
    found: dict[str, None] = {}
    for instance in spec.instances:
        if instance.process is not None:
            found[instance.log.directory] = None
            found[instance.process.working_dir] = None
    return [folder for folder in found if folder and folder not in _SYSTEM_FOLDERS]


def missing_folders(folders: Sequence[str]) -> list[str]:
    """Return the folders that do not exist; systemd cannot make them writable."""
    return [folder for folder in folders if not Path(folder).is_dir()]
