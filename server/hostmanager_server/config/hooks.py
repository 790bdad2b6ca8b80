"""The keys `on-failure` and `on-recover`: commands that the daemon runs for an instance."""

from __future__ import annotations

from collections.abc import Mapping

from hostmanager.values import dataclass

from hostmanager_server.config.command_line import read_command
from hostmanager_server.config.document import MapNode, Node, Scalar
from hostmanager_server.config.node_reader import Entry, Reader
from hostmanager_server.core.spec import HOOK_TIMEOUT, Hook

HOOK_KEYS = ("command", "timeout", "user")
NAMES = ("on-failure", "on-recover")
NONE = "none"
TIMEOUTS = (0.1, 600.0)  # s


@dataclass(frozen=True, slots=True)
class Hooks:
    """The hooks of a host; those of its instances and classes replace them."""

    on_failure: Hook | None = None
    on_recover: Hook | None = None


def read_hooks(reader: Reader, entries: Mapping[str, Entry], label: str, working_dir: str) -> Hooks:
    """Return the hooks of a host."""
    found = (
        read_hook(reader, entries[name].value, f"{name!r} of {label}", working_dir)
        if name in entries
        else None
        for name in NAMES
    )
    return Hooks(*found)


def read_hook(reader: Reader, node: Node, label: str, working_dir: str) -> Hook | None:
    """Return the hook: a command, a mapping with options, or `none`; None after an error."""
    if isinstance(node, Scalar) and node.text == NONE:
        return Hook(())
    if not isinstance(node, MapNode):
        argv = read_command(reader, node, label)
        return None if argv is None else Hook(argv, working_dir)
    entries = reader.mapping(node, label)
    reader.check_keys(entries, HOOK_KEYS, label)
    if "command" not in entries:
        reader.error(node, f"{label} has no 'command'; name the program to run, or write {NONE}")
        return None
    argv = read_command(reader, entries["command"].value, f"'command' of {label}")
    user = timeout = None
    if "user" in entries:
        user = reader.text(entries["user"].value, f"'user' of {label}")
    if "timeout" in entries:
        timeout = reader.seconds(entries["timeout"].value, f"'timeout' of {label}", *TIMEOUTS)
    return None if argv is None else Hook(argv, working_dir, user or "", timeout or HOOK_TIMEOUT)
