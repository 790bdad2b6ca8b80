"""What a request is answered with: an acceptance, or the reason why nothing was done."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

from hostmanager_server.core.manager_status import ManagerState, Problem
from hostmanager_server.core.plan import BadEntry

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Accepted:
    """The request is being carried out; `revision` shows it accepted.

    `generations` are those of the instances that the request named, for a client to wait for.
    """

    revision: int
    generations: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[Problem, ...] = ()


class RequestError(Exception):
    """A request was rejected, and nothing was changed."""


class InvalidRequestError(RequestError):
    """Entries of the request cannot be carried out; `entries` says which and why."""

    def __init__(self, entries: list[BadEntry]) -> None:
        super().__init__("; ".join(entry.why for entry in entries))
        self.entries = entries


class WrongStateError(RequestError):
    """The manager is in the wrong state for it; `state` says in which."""

    def __init__(self, what: str, state: ManagerState, remedy: str) -> None:
        super().__init__(f"cannot {what}: the manager is {state.value}; {remedy}")
        self.state = state


class ConfigError(RequestError):
    """The site config has errors; the last good one stays in force."""

    def __init__(self, file: str, problems: tuple[Problem, ...]) -> None:
        self.summary = f"cannot use the site config {file}; nothing was changed. Correct this:"
        super().__init__("\n".join((self.summary, *map(str, problems))))
        self.file = file
        self.problems = problems


class NotDurableError(RequestError):
    """The change is in force, but could not be stored."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"the change is in force, but could not be stored ({why}): a daemon that dies would forget it; "
            "see to the state directory, and ask again"
        )


class AdoptionError(RequestError):
    """What an earlier daemon left running cannot be taken back now; none of it was touched."""

    def __init__(self, error: OSError) -> None:
        super().__init__(
            f"cannot take back what an earlier daemon left running: {error}; nothing of it was touched. "
            "Mend that (for want of descriptors raise the limit on open files: ulimit -n, or LimitNOFILE of "
            "the unit), and start the daemon again"
        )


class UpgradeError(RequestError):
    """The code that is installed now could not take over; the daemon goes on as it is."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"cannot upgrade: the code that is installed now does not start: {why}; "
            "this daemon goes on as it is. Mend the installation, and ask again"
        )


class EndingError(RequestError):
    """The daemon ends, so there is nothing to upgrade."""

    def __init__(self) -> None:
        super().__init__(
            "cannot upgrade: the daemon was asked to end, and is bringing everything down; "
            "start it again once it has ended: that starts the code installed then"
        )


class ReplacingError(RequestError):
    """The daemon gives way to another one."""

    def __init__(self) -> None:
        super().__init__(
            "the daemon is being upgraded, and cannot be asked to end any more; "
            "ask the one that takes over, in a moment"
        )


class StaleEpochError(RequestError):
    """The request was meant for an earlier life of the daemon."""

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(
            f"the request is for epoch {expected}, this daemon's is {actual}: "
            "it was started again since; ask for its status and decide anew"
        )


def answer(future: Future[T], result: T, stored: Future[None] | None) -> None:
    """Answer a request once what it asked for is on disk."""
    if stored is None:
        future.set_result(result)
        return

    def on_disk(done: Future[None]) -> None:
        error = done.exception()
        if error is None:
            future.set_result(result)
        else:
            failure = NotDurableError(str(error))
            failure.__cause__ = error
            future.set_exception(failure)

    stored.add_done_callback(on_disk)
