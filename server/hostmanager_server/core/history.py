"""What became of an instance so far, as far as the next daemon is to know it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hostmanager_server.core.actions import Action, Kind, Note, Severity
from hostmanager_server.core.events import ExitStatus, Instant
from hostmanager_server.core.model import Exit, Instance, State
from hostmanager_server.core.spec import Management, RestartWhen, Target


@dataclass(frozen=True, slots=True)
class History:
    """See the fields of the same names in Instance. It is that of one agent class, managed in one way."""

    agent_class: str
    management: Management
    runs: int = 0
    restarts: int = 0
    failures: int = 0
    fail_times: tuple[Instant, ...] = ()
    last_exit: Exit | None = None
    start_error: str = ""
    retry_at: Instant | None = None
    finished: bool = False
    under_way: bool = False  # it is not to run a second time, and has begun to run
    restart_of: int = 0  # the number of the run that a restart was asked for of, and that goes on; 0: none


def history_of(instance: Instance) -> History | None:
    """What is to be remembered of it; None: nothing happened to it but that it was started."""
    if instance.retired:
        return None
    i = instance
    under_way = _under_way(i)
    restart_of = i.run.number if i.restart_wanted and i.run is not None else 0
    told = i.restarts or i.failures or i.fail_times or i.last_exit or i.start_error or i.finished
    if not (told or under_way or restart_of):
        return None  # how often a process was started is in its runtime record
    return History(
        i.spec.agent_class, i.management, i.runs, i.restarts, i.failures, i.fail_times, i.last_exit,
        i.start_error, i.retry_at, i.finished, under_way, restart_of,
    )  # fmt: skip


def _under_way(i: Instance) -> bool:
    """Whether it is a native process that is run once, and that is going on. Its runtime record goes when it
    ends, and what came of it is on disk a moment later: a daemon that died in between would run it again."""
    once = i.spec.restart.when is RestartWhen.NEVER and i.spec.process is not None
    return once and i.run is not None and i.run.started is not None


def adds_nothing(known: History, history: History) -> bool:
    """Whether one history tells what is known, but for failures that are too old to count."""
    if history.fail_times and history.fail_times[-1:] != known.fail_times[-1:]:
        return False
    return replace(history, fail_times=known.fail_times) == known


def tells_more(before: Instance, after: Instance) -> bool:
    """Whether anything was added to the history of an instance, or taken from it. That old failures do not
    count any more is nothing: it shows by itself in time."""
    if before.fail_times is not after.fail_times and after.fail_times[-1:] != before.fail_times[-1:]:
        return bool(after.fail_times)
    return (
        before.last_exit is not after.last_exit
        or before.failures != after.failures
        or before.restarts != after.restarts
        or before.retry_at != after.retry_at
        or before.finished is not after.finished
        or before.restart_wanted is not after.restart_wanted
        or before.start_error != after.start_error
        or before.retired is not after.retired
        or _under_way(before) is not _under_way(after)
    )


def with_history(instance: Instance, history: History, now: Instant) -> Instance:
    """The instance as it was known to the daemon before. It stays as it is when it is another class, or is
    managed in another way, by now; what was seen since is newer than what is remembered."""
    i, h = instance, history
    if i.retired or (i.spec.agent_class, i.management) != (h.agent_class, h.management):
        return i
    i = replace(
        i,
        runs=max(i.runs, h.runs),
        restarts=i.restarts + h.restarts,
        failures=i.failures + h.failures,
        fail_times=tuple(sorted({*h.fail_times, *i.fail_times})),
        last_exit=i.last_exit or h.last_exit,
    )
    if i.run is not None:
        if i.failures and i.state is State.UP:
            i = replace(i, at=now.plus(i.spec.restart.backoff.reset_after))
        if i.run is not None and i.run.number == h.restart_of and i.target is Target.UP:
            i = replace(i, restart_wanted=True)
        return i
    if i.state is not State.DOWN:
        return i  # it has ended since
    if h.under_way and i.target is Target.UP:
        why = "ended with its daemon, which could not tell how any more"
        return replace(i, last_exit=Exit(ExitStatus(), now, False, why), state=State.UP)
    start_error = i.start_error or h.start_error
    finished = h.finished and i.target is Target.UP
    return replace(i, start_error=start_error, retry_at=h.retry_at, finished=finished)


def as_found(instance: Instance, now: Instant, do: list[Action]) -> Instance:
    """The instance once it is seen whether it runs, when it is not known any more what was asked of it:
    nothing that runs is ended for want of knowing better."""
    i = replace(instance, target_lost=False)
    if i.run is None or i.target is not Target.DOWN or i.retired:
        return i
    message = "it runs, and what was asked of it is lost: its target is up from now on"
    do.append(Note(Kind.INSTANCE, "TargetLost", message, now, i.instance_id, Severity.WARNING))
    return replace(i, target=Target.UP)
