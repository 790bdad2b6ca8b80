"""The driver contract, over the fake driver and the real ones."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from hostmanager_server.core.events import (
    Appeared,
    Exited,
    ExitStatus,
    Gone,
    Ready,
    RunEvent,
    RunKey,
    Started,
    StartFailed,
)
from hostmanager_server.core.spec import CommandProbe, InstanceSpec, ReadinessProbe

from tests.fakes.driver import Behaviour

if TYPE_CHECKING:
    from tests.drivers.compose_harness import ComposeHarness
    from tests.drivers.conftest import Harness

STEADY = Behaviour()
IGNORES_INT = Behaviour(ignores=frozenset({signal.SIGINT}))
IGNORES_BOTH = Behaviour(ignores=frozenset({signal.SIGINT, signal.SIGTERM}))
DAEMONISES = Behaviour(descendants=True)
EXITS_3 = Behaviour(exits_after=0.0, status=ExitStatus(code=3))


def of(harness: Harness, run: RunKey) -> list[RunEvent]:
    return [event for event in harness.events if isinstance(event, RunEvent) and event.run == run]


def seen(harness: Harness, run: RunKey, kind: type[RunEvent]) -> bool:
    return any(isinstance(event, kind) for event in of(harness, run))


def kinds(harness: Harness, run: RunKey) -> list[type[RunEvent]]:
    return [type(event) for event in of(harness, run)]


def status(harness: Harness, run: RunKey) -> ExitStatus:
    return next(event.status for event in of(harness, run) if isinstance(event, Exited))


def start(harness: Harness, instance_id: str, behaviour: Behaviour, number: int = 1) -> RunKey:
    run = RunKey(instance_id, number)
    harness.driver.launch(run, harness.spec(instance_id, behaviour))
    harness.settle(instance_id)
    return run


def wait_gone(harness: Harness, run: RunKey) -> None:
    harness.wait_for(lambda: seen(harness, run, Gone))


def test_a_run_is_started_then_ready_then_exited_then_gone(harness: Harness) -> None:
    run = RunKey("a", 1)
    harness.driver.launch(run, harness.spec("a", EXITS_3))
    wait_gone(harness, run)
    assert kinds(harness, run) == [Started, Ready, Exited, Gone]
    assert status(harness, run) == ExitStatus(code=3)
    assert not harness.alive("a")


def test_a_failed_start_is_one_event_that_names_the_instance(harness: Harness) -> None:
    run = RunKey("a", 1)
    harness.driver.launch(run, harness.spec("a", Behaviour(cannot_start="no such program")))
    harness.wait_for(lambda: seen(harness, run, StartFailed))
    assert kinds(harness, run) == [StartFailed]
    (failed,) = of(harness, run)
    assert isinstance(failed, StartFailed)
    assert failed.why.startswith("cannot start 'a': ")
    assert not harness.alive("a")


def test_an_instance_without_a_command_fails_with_its_problem(harness: Harness) -> None:
    run = RunKey("a", 1)
    harness.driver.launch(run, InstanceSpec("a", "Nobody", problem="agent class 'Nobody' has no command"))
    (failed,) = of(harness, run)
    assert isinstance(failed, StartFailed)
    assert "agent class 'Nobody' has no command" in failed.why


def test_a_stop_signal_ends_the_run_and_shows_as_its_status(processes: Harness) -> None:
    run = start(processes, "a", STEADY)
    processes.driver.stop(run, signal.SIGINT, whole_tree=False)
    wait_gone(processes, run)
    assert status(processes, run) == ExitStatus(signal=signal.SIGINT)


def test_a_run_that_ignores_int_and_term_ends_by_kill(processes: Harness) -> None:
    run = start(processes, "a", IGNORES_BOTH)
    processes.driver.stop(run, signal.SIGINT, whole_tree=False)
    processes.driver.stop(run, signal.SIGTERM, whole_tree=True)
    other = start(processes, "b", EXITS_3)
    wait_gone(processes, other)
    assert not seen(processes, run, Exited)
    processes.driver.stop(run, signal.SIGKILL, whole_tree=True)
    wait_gone(processes, run)
    assert status(processes, run) == ExitStatus(signal=signal.SIGKILL)
    assert not processes.alive("a")


def test_term_to_the_whole_tree_ends_a_run_that_ignores_int(processes: Harness) -> None:
    run = start(processes, "a", IGNORES_INT)
    processes.driver.stop(run, signal.SIGINT, whole_tree=False)
    processes.driver.stop(run, signal.SIGTERM, whole_tree=True)
    wait_gone(processes, run)
    assert not processes.alive("a")


def test_a_run_is_not_gone_while_a_descendant_lives(processes: Harness) -> None:
    run = start(processes, "a", DAEMONISES)
    processes.driver.stop(run, signal.SIGINT, whole_tree=False)
    processes.wait_for(lambda: seen(processes, run, Exited))
    other = start(processes, "b", EXITS_3)
    wait_gone(processes, other)
    assert not seen(processes, run, Gone)
    assert processes.alive("a")
    processes.driver.stop(run, signal.SIGTERM, whole_tree=True)
    wait_gone(processes, run)
    assert not processes.alive("a")
    assert kinds(processes, run) == [Started, Ready, Exited, Gone]


def test_a_crash_from_outside_is_reported(harness: Harness) -> None:
    run = start(harness, "a", STEADY)
    harness.crash("a")
    wait_gone(harness, run)
    assert status(harness, run) == harness.killed


def test_an_instance_can_be_launched_again_once_gone(harness: Harness) -> None:
    first = start(harness, "a", STEADY)
    harness.crash("a")
    wait_gone(harness, first)
    second = start(harness, "a", STEADY, number=2)
    assert kinds(harness, second) == [Started, Ready]
    harness.driver.stop(second, signal.SIGKILL, whole_tree=True)
    wait_gone(harness, second)


def test_a_second_launch_during_a_living_run_is_refused(harness: Harness) -> None:
    first = start(harness, "a", STEADY)
    second = RunKey("a", 2)
    harness.driver.launch(second, harness.spec("a", STEADY))
    assert kinds(harness, second) == [StartFailed]
    assert kinds(harness, first) == [Started, Ready]


def test_stopping_an_older_or_unknown_run_does_nothing(harness: Harness) -> None:
    run = start(harness, "a", STEADY, number=2)
    harness.driver.stop(RunKey("a", 1), signal.SIGKILL, whole_tree=True)
    harness.driver.stop(RunKey("nobody", 1), signal.SIGKILL, whole_tree=True)
    other = start(harness, "b", EXITS_3)
    wait_gone(harness, other)
    assert kinds(harness, run) == [Started, Ready]


def test_stopping_a_run_twice_ends_it_once(harness: Harness) -> None:
    run = start(harness, "a", STEADY)
    harness.driver.stop(run, signal.SIGTERM, whole_tree=True)
    harness.driver.stop(run, signal.SIGKILL, whole_tree=True)
    wait_gone(harness, run)
    harness.driver.stop(run, signal.SIGKILL, whole_tree=True)
    assert kinds(harness, run) == [Started, Ready, Exited, Gone]


def test_an_operator_s_signal_reaches_the_main_process(harness: Harness) -> None:
    run = start(harness, "a", STEADY)
    answers: list[str] = []
    harness.driver.signal(run, signal.SIGKILL, whole_tree=False, done=answers.append)
    wait_gone(harness, run)
    assert status(harness, run) == harness.killed
    harness.wait_for(lambda: answers == [""])


def test_an_operator_s_signal_to_the_tree_reaches_descendants(processes: Harness) -> None:
    run = start(processes, "a", DAEMONISES)
    answers: list[str] = []
    processes.driver.signal(run, signal.SIGTERM, whole_tree=True, done=answers.append)
    wait_gone(processes, run)
    assert answers == [""]
    assert not processes.alive("a")


def test_a_signal_to_an_ended_run_reaches_nothing(harness: Harness) -> None:
    run = start(harness, "a", STEADY)
    answers: list[str] = []
    harness.driver.signal(RunKey("a", 7), signal.SIGKILL, whole_tree=False, done=answers.append)
    harness.driver.signal(RunKey("other", 1), signal.SIGKILL, whole_tree=False, done=answers.append)
    assert len(answers) == 2
    assert all(answers)
    harness.crash("a")
    wait_gone(harness, run)
    harness.driver.signal(run, signal.SIGKILL, whole_tree=False, done=answers.append)
    assert len(answers) == 3
    assert all(answers)


def test_ready_follows_started_when_the_probe_succeeds(processes: Harness) -> None:
    run = RunKey("a", 1)
    probe = ReadinessProbe(CommandProbe(("true",)), interval=0.01, timeout=10.0)
    processes.driver.launch(run, processes.spec("a", STEADY, ready=probe))
    assert kinds(processes, run) == [Started]
    processes.wait_for(lambda: seen(processes, run, Ready))
    assert kinds(processes, run) == [Started, Ready]


def test_a_run_that_ends_early_never_becomes_ready(processes: Harness) -> None:
    run = RunKey("a", 1)
    probe = ReadinessProbe(CommandProbe(("false",)), interval=0.01, timeout=10.0)
    processes.driver.launch(run, processes.spec("a", Behaviour(ready_after=None), ready=probe))
    processes.settle("a")
    processes.driver.stop(run, signal.SIGTERM, whole_tree=True)
    wait_gone(processes, run)
    assert kinds(processes, run) == [Started, Exited, Gone]


def test_a_disowned_run_lives_on_and_the_next_driver_adopts_it(processes: Harness) -> None:
    run = start(processes, "a", STEADY)
    started = processes.events[0]
    assert isinstance(started, Started)
    processes.replace_driver()
    adopted = processes.driver.adopt({})
    assert [(one.run, one.pid) for one in adopted] == [(run, started.pid)]
    assert adopted[0].process.argv
    processes.driver.stop(run, signal.SIGTERM, whole_tree=False)
    wait_gone(processes, run)
    assert kinds(processes, run) == [Started, Ready, Exited, Gone]
    assert not processes.alive("a")


def test_a_disowned_run_posts_nothing_more(harness: Harness) -> None:
    run = start(harness, "a", STEADY)
    harness.driver.disown()
    harness.crash("a")
    harness.wait_for(lambda: not harness.alive("a"))
    assert kinds(harness, run) == [Started, Ready]


def test_descendants_of_an_ended_main_process_are_adopted(processes: Harness) -> None:
    run = start(processes, "a", DAEMONISES)
    processes.driver.disown()
    processes.crash("a")
    processes.replace_driver()
    processes.wait_for(lambda: processes.alive("a"))
    adopted = processes.driver.adopt({})
    assert [(one.run, one.gone) for one in adopted] == [(run, False)]
    processes.wait_for(lambda: adopted[0].ended is not None or seen(processes, run, Exited))
    assert not seen(processes, run, Gone)
    processes.driver.stop(run, signal.SIGKILL, whole_tree=True)
    wait_gone(processes, run)
    assert not processes.alive("a")


def test_a_run_that_ended_without_a_driver_is_reported_once(processes: Harness) -> None:
    run = start(processes, "a", STEADY)
    processes.driver.disown()
    processes.crash("a")
    processes.wait_for(lambda: not processes.alive("a"))
    processes.replace_driver()
    adopted = processes.driver.adopt({})
    assert [(one.run, one.ended is None, one.gone) for one in adopted] == [(run, False, True)]
    processes.replace_driver()
    assert processes.driver.adopt({}) == []
    assert kinds(processes, run) == [Started, Ready]


def test_nothing_is_adopted_after_everything_was_gone(harness: Harness) -> None:
    run = start(harness, "a", STEADY)
    harness.driver.stop(run, signal.SIGTERM, whole_tree=False)
    wait_gone(harness, run)
    harness.replace_driver()
    assert harness.driver.adopt({}) == []


def test_a_disowned_service_lives_on_and_the_next_driver_finds_it(compose: ComposeHarness) -> None:
    run = start(compose, "a", STEADY)
    started = next(event for event in of(compose, run) if isinstance(event, Started))
    compose.replace_driver()
    assert compose.driver.adopt({}) == []
    compose.follow("a")
    (found,) = [event for event in compose.events if isinstance(event, Appeared)]
    assert (found.pid, round(found.at.wall, 1)) == (started.pid, round(started.at.wall, 1))
    compose.driver.stop(found.run, signal.SIGKILL, whole_tree=True)
    wait_gone(compose, found.run)
    assert kinds(compose, found.run) == [Appeared, Exited, Gone]
    assert not compose.alive("a")
