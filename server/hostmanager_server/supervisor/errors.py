"""Answers to requests: the acceptance, and the errors of rejected requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hostmanager.values import dataclass, field

from hostmanager_server.core.config_changes import NO_CHANGES, ConfigChanges
from hostmanager_server.core.manager_status import ManagerState, Problem
from hostmanager_server.core.model import Instance, Instances
from hostmanager_server.core.plan import BadEntry, TargetChange, final_targets
from hostmanager_server.core.spec import Target


@dataclass(frozen=True, slots=True)
class Accepted:
    """An accepted request, in progress; the snapshot of `revision` shows the request.

    `generations` holds the new generation of each named instance: a client that waits for a generation waits
    for the request. `warnings` lists problems of the site config that are no errors. `changes` are those that
    a reload made, or would make.
    """

    revision: int
    generations: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[Problem, ...] = ()
    changes: ConfigChanges = NO_CHANGES
    targets: Mapping[str, Target] = field(default_factory=dict)  # of the instances in `generations`


def accepted(
    revision: int,
    changed: Mapping[str, Instance],
    warnings: tuple[Problem, ...] = (),
    changes: ConfigChanges = NO_CHANGES,
) -> Accepted:
    """Return the answer to a request that changed these instances."""
    generations = {instance_id: instance.wanted.generation for instance_id, instance in changed.items()}
    targets = {instance_id: instance.wanted.target for instance_id, instance in changed.items()}
    return Accepted(revision, generations, warnings, changes, targets)


def validated(
    revision: int,
    instances: Instances,
    changes: Iterable[TargetChange],
    known: Iterable[str],
    warnings: tuple[Problem, ...],
) -> Accepted:
    """Return the answer to valid changes that are not made, with the present generations."""
    targets = final_targets(changes, known)
    generations = {i: instances[i].wanted.generation if i in instances else 0 for i in targets}
    return Accepted(revision, generations, warnings, targets=targets)


@dataclass(frozen=True, slots=True)
class JobAccepted:
    """An accepted request to run a one-shot: the instance, and the number that its run will have."""

    instance_id: str
    run: int
    revision: int


class RequestError(Exception):
    """A rejected request.

    Except for NotDurableError, the request changed nothing.
    """


class InvalidRequestError(RequestError):
    """A request with entries that cannot be carried out; `entries` gives the reasons."""

    def __init__(self, entries: Sequence[BadEntry]) -> None:
        super().__init__("; ".join(entry.why for entry in entries))
        self.entries = entries


class WrongStateError(RequestError):
    """A request that the present `state` of the manager does not allow."""

    def __init__(self, what: str, state: ManagerState, remedy: str) -> None:
        super().__init__(f"cannot {what}: the manager is {state.value}; {remedy}")
        self.state = state


class ConfigError(RequestError):
    """A site config with errors; the last good config stays in force."""

    def __init__(self, file: str, problems: tuple[Problem, ...]) -> None:
        self.summary = f"cannot use the site config {file}; nothing was changed. Correct these errors:"
        super().__init__("\n".join((self.summary, *map(str, problems))))
        self.file = file
        self.problems = problems


class SignalError(RequestError):
    """A signal that could not be sent."""


class NotDurableError(RequestError):
    """A request that is in force, but missing from the journal."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"cannot store the change: {why}; the change is in force, but would be lost if the daemon died; "
            "repair the state directory, and repeat the request"
        )


class AdoptionError(RequestError):
    """A failed recovery of the earlier daemon's runs, which go on untouched."""

    def __init__(self, error: OSError) -> None:
        super().__init__(
            f"cannot recover the processes of an earlier daemon: {error}; no process was touched. Remove the "
            "cause (too many open files: raise the limit with ulimit -n, or with LimitNOFILE in the unit), "
            "and start the daemon again"
        )


class UpgradeError(RequestError):
    """A failed start of the installed version; the present daemon continues."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"cannot upgrade: the installed version does not start: {why}; the present daemon continues; "
            "repair the installation, and repeat the request"
        )


class EndingError(RequestError):
    """A request to upgrade a daemon that is ending."""

    def __init__(self) -> None:
        super().__init__(
            "cannot upgrade: the daemon was asked to end, and is stopping every instance; "
            "start the daemon again afterwards, which runs the installed version"
        )


class ReplacingError(RequestError):
    """A request to end a daemon that is being upgraded."""

    def __init__(self) -> None:
        super().__init__("cannot end: the daemon is being upgraded; repeat the request to the new daemon")


class StaleEpochError(RequestError):
    """A request with the epoch of an earlier daemon."""

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(
            f"cannot carry out the request: it is for epoch {expected}, and the daemon, restarted since, has "
            f"epoch {actual}; read the status, and decide again"
        )


def raise_if(bad: Sequence[BadEntry]) -> None:
    """Raise InvalidRequestError if there are bad entries."""
    if bad:
        raise InvalidRequestError(bad)
