"""Short commands without the time to load click, gRPC and protobuf.

`run` handles the plain forms of the commands that ask the daemon once. For everything else (--help, --wait,
mistakes, TCP, a daemon that does not answer) the full command line runs, with the same output.
"""

from __future__ import annotations

import os

from hostmanager.values import dataclass, field

from hostmanager_client.cli.cli_session import CliSession, OpenClient
from hostmanager_client.errors import HostManagerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from typing import Any

# "grpc": never use this module. "light": accepted as a synonym of the default.
TRANSPORT_VARIABLE = "HOSTMANAGER_TRANSPORT"
_FLAGS = ("--json", "--all", "--failing", "--check", "--wide")
_WITH_FULL_CLIENT = ("HOSTMANAGER_DEBUG", "_HOSTMANAGER_COMPLETE")


@dataclass(slots=True)
class BriefSession(CliSession):
    """One run of a short command."""

    def connect(self, timeout: float | None = None) -> AbstractContextManager[Any]:
        """Open a light client; raise FullClientNeeded for a daemon on TCP."""
        from hostmanager_client.light.client import FullClientNeeded, LightClient

        address = self.find_address()
        if not address.is_unix:
            raise FullClientNeeded("the daemon listens on TCP")
        return OpenClient(LightClient(address, timeout or self.timeout), self.asked)


@dataclass(slots=True)
class _Words:
    """The words of a command line."""

    names: list[str] = field(default_factory=list)  # the command and its arguments
    flags: set[str] = field(default_factory=set)
    address: str | None = None
    timeout: float | None = None
    reason: str = ""


def run(arguments: Sequence[str]) -> int | None:
    """Run a short command and return its exit code; None if the full command line must run."""
    if os.environ.get(TRANSPORT_VARIABLE) == "grpc" or any(map(os.environ.get, _WITH_FULL_CLIENT)):
        return None
    words = _parse(arguments)
    work = None if words is None else _work(words)
    if words is None or work is None:
        return None
    from hostmanager_client.light.client import FullClientNeeded

    command, *ids = words.names
    ids = ids[:1] if command == "signal" else ids
    session = BriefSession(words.address, "--json" in words.flags, words.timeout, lambda: ids)
    try:
        return work(session) or 0
    except FullClientNeeded:
        return None
    except HostManagerError as error:
        from hostmanager_client.cli.failure import exit_code, show_error

        show_error(error, as_json=session.json)
        return exit_code(error)


def _parse(arguments: Sequence[str]) -> _Words | None:
    """Return the words of a plain command line; None for any other."""
    words = _Words()
    rest = iter(arguments)
    for word in rest:
        name, equals, value = word.partition("=")
        if name in ("--address", "--timeout", "--reason") or word == "-a":
            value = value if equals else next(rest, "")
            if not value or value.startswith("-"):
                return None
            if name == "--reason":
                words.reason = value
            elif name != "--timeout":
                words.address = value
            elif (seconds := _seconds(value)) is not None:
                words.timeout = seconds
            else:
                return None
        elif word in _FLAGS:
            words.flags.add(word)
        elif word.startswith("-"):
            return None
        else:
            words.names.append(word)
    return words


def _seconds(text: str) -> float | None:
    from hostmanager_client.seconds import LONGEST_TIMEOUT

    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 < seconds <= LONGEST_TIMEOUT else None


def _work(words: _Words) -> Callable[[CliSession], int | None] | None:
    """Return the function of a command, which may return an exit code.

    None if the arguments are not those of a short command.
    """
    if not words.names:
        return None
    command, *ids = words.names
    everything, failing, check = (flag in words.flags for flag in ("--all", "--failing", "--check"))
    wide = "--wide" in words.flags
    if wide and command != "status":
        return None
    if command in ("up", "down", "restart"):
        if (ids and everything) or not (ids or everything or failing) or check:
            return None
        from hostmanager_client.cli import change

        if command == "restart":
            return lambda session: change.restart(
                session, tuple(ids), everything=everything, failing=failing, reason=words.reason
            )
        pairs = [(each, command) for each in ids or [change.ALL]]
        return lambda session: change.update(session, pairs, failing=failing, reason=words.reason)
    if everything:
        return None
    if command == "signal" and len(ids) == 2 and not failing and not check:
        from hostmanager_client.cli import change

        return lambda session: change.signal(session, ids[0], ids[1], reason=words.reason)
    if words.reason:
        return None
    from hostmanager_client.cli import read

    if command == "status":
        return lambda session: read.show_status(session, ids, failing=failing, check=check, wide=wide)
    if command == "why" and not failing and not check:
        from hostmanager_client.cli.explain import explain

        return lambda session: explain(session, ids)
    if command == "show" and (ids or failing) and not check:
        return lambda session: read.show_instances(session, ids, failing=failing)
    if command == "manager" and ids == ["status"] and not failing and not check:
        return read.show_manager
    return None
