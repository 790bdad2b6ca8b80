"""What to try for an instance that is not as wanted: one table for each thing that hints can be about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hostmanager_server.core.model import Exit, Instance, State
from hostmanager_server.core.signals import signal_name
from hostmanager_server.core.spec import Management

# By the reason of the state; `{id}` stands for the id, `{others}` for those that the instance waits for.
# Reasons of states that need nothing have an empty text. docs/reference/states.md explains the reasons.
BY_REASON: Mapping[str, str] = {
    "Running": "",
    "Stopped": "`hostmanager up {id}` starts it",
    "Finished": "`hostmanager restart {id}` runs it once more",
    "Failed": "correct the cause, then `hostmanager up {id}`",
    "BackingOff": "correct the cause; `hostmanager restart {id}` does not wait for the next attempt",
    "Starting": "a slow start needs a larger `start-timeout`; check `ready`, if the site config has one",
    "WaitingForDependencies": "`hostmanager why {others}`",
    "DependencyDown": "`hostmanager up {id} --with-dependencies` starts {others}, too",
    "WaitingForDependents": "wait until {others} are down",
    "Stopping": "wait: a stronger signal follows by itself",
    "StopEscalated": "wait: KILL follows by itself",
    "StopFailed": "read the message; the daemon tries the stop again",
    "CleaningUp": "wait: the rest of the process tree is being stopped",
    "NotOperable": "correct the site config or the compose file, then `hostmanager reload`",
    "OutOfSight": "start the Docker Engine, or correct its socket; `hostmanager status` has the cause",
    "Paused": "`docker unpause` the container, or `hostmanager restart {id}`",
    "Unhealthy": "`docker inspect` the container: its health check has an output",
    "Degraded": "`hostmanager logs {id}` has the output of the containers",
    "Held": "`hostmanager release {id}` ends the hold; `hostmanager show {id}` has its end and reason",
    "Scheduled": "`hostmanager run {id}` does not wait for the next time",
    "NotAnswering": "`hostmanager show {id}` has the liveness probe and its last answer",
    "Unprobed": "correct `alive` in the site config, or install what the probe needs",
    "Unresponsive": "wait: the restart follows; `hostmanager logs {id}` may tell why it hung",
}
# By how the last run ended; code or signal by name.
BY_EXIT: Mapping[str, str] = {
    "code 126": "the program of `command` cannot be executed: check its mode bits and the line after #!",
    "code 127": "a program was not found: check `command`, and PATH in `hostmanager show {id}`",
    "code 0": "a service that ends with code 0 needs `restart: on-failure`, or must stay in the foreground",
    "SIGKILL": "the kernel kills for lack of memory (`dmesg`), and operators use kill -9",
    "SIGSEGV": "the program has a bug, or one of its libraries; `coredumpctl` may have the core",
    "SIGABRT": "the program gave up on itself; its output has the reason",
    "SIGBUS": "the program has a bug, or a file that it maps was cut; check for a full disk",
    "SIGILL": "the program or a library was built for another processor",
}
OUT_OF_MEMORY = "the container reached its memory limit: raise the limit, or find the leak"
LIMITS: Mapping[str, str] = {
    "cpu": "the run reached `limits: cpu`: raise the limit, or find the loop",
    "fsize": "the run reached `limits: fsize`: raise the limit, or write smaller files",
}


def hints(instance: Instance, last_exit: Exit | None) -> Iterator[str]:
    """Yield what to try for an instance that is not as wanted, the most specific first.

    `last_exit` is the end that the present trouble is about, if any.
    """
    if last_exit is not None and not last_exit.expected:
        yield from _exit_hints(last_exit)
    reason = "OutOfSight" if instance.observed.unobservable else instance.standing.reason
    others = ", ".join(_others(instance)) or "the others"
    text = BY_REASON.get(reason, "")
    if text and (reason != "Starting" or instance.spec.ready is not None):
        yield text.format(id=instance.instance_id, others=others)
    ended = last_exit is not None or bool(instance.observed.start_error)
    if ended and instance.spec.management is not Management.RETIRED and reason not in _WITHOUT_OUTPUT:
        yield f"`hostmanager logs {instance.instance_id} -n 50` shows what it wrote"
    if instance.restart_required:
        yield f"`hostmanager restart {instance.instance_id}`: the run is older than the config or the image"


_WITHOUT_OUTPUT = frozenset({"OutOfSight", "NotOperable", "Degraded"})


def _exit_hints(last: Exit) -> Iterator[str]:
    status = last.status
    if status.out_of_memory:
        yield OUT_OF_MEMORY
    elif status.limit in LIMITS:
        yield LIMITS[status.limit]
    else:
        name = f"code {status.code}" if status.code is not None else signal_name(status.signal or 0)
        if text := BY_EXIT.get(name):
            yield text


def _others(instance: Instance) -> tuple[str, ...]:
    if instance.standing.state is State.START:
        return tuple(each.instance_id for each in instance.observed.waiting_for)
    return instance.observed.held_by
