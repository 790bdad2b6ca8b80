"""Single runs of one-shots, at an operator's request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hostmanager.values import replace

from hostmanager_server.core.holds import hold_text
from hostmanager_server.core.model import Instance, Instances, Job, Standing, State
from hostmanager_server.core.plan import BadEntry, next_generation, no_instance
from hostmanager_server.core.spec import Target


def find(instances: Instances, name: str) -> str | BadEntry:
    """Return the id of the instance that `name` stands for, or why there is none.

    A name that is no id may be that of an agent class with a single one-shot.
    """
    if name in instances:
        return name
    of_class = [i for i in instances.values() if i.spec.agent_class == name and not i.retired]
    one_shots = sorted(i.instance_id for i in of_class if i.spec.one_shot)
    if len(one_shots) == 1:
        return one_shots[0]
    if one_shots:
        listed = ", ".join(one_shots[:5]) + (" and others" if len(one_shots) > 5 else "")
        return BadEntry(0, f"cannot run {name!r}: the class has several one-shots; name one: {listed}")
    if of_class:
        return BadEntry(0, f"cannot run {name!r}: no instance of the class is a one-shot; {_ONE_SHOT}")
    text = no_instance(name, instances.values())
    return BadEntry(0, f"{text}, and no agent class of this name has instances", unknown=True)


_ONE_SHOT = "set restart: never or on-failure, and no ready"


def why_not(instance: Instance, arguments: Sequence[str]) -> str:
    """Return why the instance cannot be run once now; empty if it can."""
    wanted, spec = instance.wanted, instance.spec
    reason = ""
    if instance.retired or wanted.successor is not None:
        reason = "its definition is being replaced; try again when it is down"
    elif instance.passive_tracking:
        reason = "it is passive, and only observed"
    elif spec.process is None and spec.service is None:
        reason = f"not operable: {spec.problem}"
    elif spec.process is None:
        reason = "it is a compose service; use docker compose run, or hostmanager restart"
    elif not spec.one_shot:
        reason = f"it is no one-shot; {_ONE_SHOT}"
    elif wanted.hold is not None:
        reason = f"{hold_text(wanted.hold)}; release it first: hostmanager release {instance.instance_id}"
    elif instance.observed.run is not None or wanted.job is not None:
        reason = "it runs already, or is about to; wait for its end, or stop it: hostmanager down"
    elif instance.should_run and instance.standing.state in (State.START, State.START_AT):
        reason = "it is about to start; wait for its end, or stop it: hostmanager down"
    elif arguments and not spec.run_arguments:
        reason = "the config allows no arguments; set run-arguments: true"
    return f"cannot run {instance.instance_id!r}: {reason}" if reason else ""


def run_once(instance: Instance, arguments: Iterable[str]) -> Instance:
    """Return the instance with the order to run once; its target comes back afterwards."""
    before = instance.wanted
    after = before.target if before.target is not Target.UP else None
    job = Job(tuple(arguments), once=True, target_after=after)
    wanted = replace(before, target=Target.UP, restart=False, target_lost=False, job=job)
    return next_generation(replace(instance, wanted=wanted, standing=_fresh(instance.standing)), instance)


def _fresh(standing: Standing) -> Standing:
    return replace(standing, outcome=None, retry_at=None, failures=0, backgrounded=0)
