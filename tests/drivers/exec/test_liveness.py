"""Liveness probes against real listeners and commands."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hostmanager_server.core.events import ProbeAnswer, ProbeAnswered, Ready, RunKey, Verdict
from hostmanager_server.core.spec import (
    CommandProbe,
    HttpProbe,
    InstanceSpec,
    LivenessProbe,
    ReadinessProbe,
    TcpProbe,
)

from tests.drivers.conftest import PlainOutput
from tests.drivers.exec.test_readiness import ProbedSite, probing, site, stop

if TYPE_CHECKING:
    from tests.drivers.conftest import ProcessHarness

__all__ = ["site"]  # a fixture

A = RunKey("a", 1)


def spec(
    real: ProcessHarness, check: TcpProbe | HttpProbe | CommandProbe, *, timeout: float = 10.0
) -> InstanceSpec:
    probe = LivenessProbe(check, 0.01, timeout, failures=2, delay=0.0)
    return replace(real.command("a", "sleep", "1000"), alive=probe)


def answers(real: ProcessHarness) -> list[ProbeAnswer]:
    return [event.answer for event in real.events if isinstance(event, ProbeAnswered) and event.run == A]


def wait_for_verdict(real: ProcessHarness, verdict: Verdict) -> ProbeAnswer:
    real.wait_for(lambda: bool(answers(real)) and answers(real)[-1].verdict is verdict)
    return answers(real)[-1]


def test_each_change_of_the_answer_is_posted_and_no_repetition(
    real: ProcessHarness, site: ProbedSite
) -> None:
    site.code = 200
    real.driver.launch(A, spec(real, HttpProbe(f"http://127.0.0.1:{site.server.server_port}/")))
    wait_for_verdict(real, Verdict.ALIVE)
    asked = len(site.asked)
    real.wait_for(lambda: len(site.asked) > asked + 2)
    site.code = 500
    real.wait_for(lambda: len(answers(real)) == 3)
    assert [(each.verdict, each.failures, each.message) for each in answers(real)] == [
        (Verdict.ALIVE, 0, ""),
        (Verdict.FAILED, 1, "HTTP status 500"),
        (Verdict.FAILED, 2, "HTTP status 500"),
    ]
    asked = len(site.asked)
    real.wait_for(lambda: len(site.asked) > asked + 2)
    site.code = 200
    assert wait_for_verdict(real, Verdict.ALIVE).failures == 0
    assert len(answers(real)) == 4, "failures beyond the threshold are no news"
    stop(real)


def test_a_closed_port_is_a_failure_and_a_silent_server_runs_out_of_time(real: ProcessHarness) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        real.driver.launch(A, spec(real, HttpProbe(f"http://127.0.0.1:{port}/"), timeout=0.05))
        assert wait_for_verdict(real, Verdict.FAILED).message == "no answer within 0.05 s"
    real.wait_for(lambda: answers(real)[-1].message == "connection refused")
    stop(real)


@pytest.mark.parametrize(
    ("check", "why"),
    [
        (CommandProbe(("no-such-check",)), "its program 'no-such-check' is not found"),
        (CommandProbe(("sh", "-c", "no-such-check")), "code 127 (command not found)"),
        (TcpProbe("fe80::1%nosuch", 1), "cannot look up the host of the probe"),
    ],
)
def test_a_probe_that_cannot_be_run_says_so_and_is_no_failure(
    real: ProcessHarness, check: CommandProbe | TcpProbe, why: str
) -> None:
    real.driver.launch(A, spec(real, check))
    answer = wait_for_verdict(real, Verdict.UNKNOWN)
    assert why in answer.message
    assert answer.failures == 0
    assert {each.verdict for each in answers(real)} == {Verdict.UNKNOWN}
    stop(real)


def test_a_command_that_is_installed_later_is_used(real: ProcessHarness) -> None:
    program = real.directory / "check"
    real.driver.launch(A, spec(real, CommandProbe((str(program),))))
    wait_for_verdict(real, Verdict.UNKNOWN)
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    wait_for_verdict(real, Verdict.ALIVE)
    stop(real)


def test_a_reload_changes_the_probe_of_a_running_agent(real: ProcessHarness) -> None:
    real.driver.launch(A, real.command("a", "sleep", "1000"))
    assert not probing()
    wanted = spec(real, CommandProbe(("false",)))
    real.driver.follow(wanted)
    assert wait_for_verdict(real, Verdict.FAILED).message == "the probe ended with code 1"
    real.driver.follow(replace(wanted, alive=LivenessProbe(CommandProbe(("true",)), 0.01, delay=0.0)))
    wait_for_verdict(real, Verdict.ALIVE)
    real.driver.follow(replace(wanted, alive=None))
    count = len(answers(real))
    real.run(real.script("b", "sleep 0.05"))
    assert len(answers(real)) == count
    stop(real)


def test_another_daemon_probes_on_and_probes_begin_after_readiness(real: ProcessHarness) -> None:
    go = real.directory / "go"
    ready = ReadinessProbe(CommandProbe(("test", "-e", str(go))), interval=0.01)
    wanted = replace(spec(real, CommandProbe(("test", "-e", str(go)))), ready=ready)
    real.driver.launch(A, wanted)
    real.run(real.script("b", "sleep 0.05"))
    assert not answers(real)
    go.touch()
    wait_for_verdict(real, Verdict.ALIVE)
    assert any(isinstance(event, Ready) and event.run == A for event in real.events)
    real.driver.disown()
    real.driver.close()
    real.events.clear()
    real.driver = real.new_driver(PlainOutput(real.directory / "log"))
    real.driver.adopt({"a": wanted})
    wait_for_verdict(real, Verdict.ALIVE)
    stop(real)
