"""The commands `hold` and `release`, and what the others say of held instances."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import Result
from hostmanager.v1 import host_manager_pb2 as pb

from tests.client.fake_daemon import FakeDaemon
from tests.client.test_cli import run

__all__ = ["run"]  # a fixture

Run = Callable[..., Result]


def test_a_hold_is_told_with_its_end_and_reason(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1")
    result = run("hold", "data1", "--for", "1h30m", "--reason", "valve swap")
    assert (result.exit_code, result.output) == (
        0,
        "data1: held until 2023-11-14 23:43:20 UTC (valve swap)\n",
    )
    request = daemon.requests[-1]
    assert isinstance(request, pb.HoldRequest)
    assert (request.duration.seconds, request.reason) == (5400, "valve swap")
    assert "held until 23:43 UTC (valve swap)" in run("status").output
    shown = run("show", "data1").output
    assert "held until:        2023-11-14 23:43:20 UTC" in shown
    assert "held because:      valve swap" in shown
    assert json.loads(run("show", "data1", "--json").output)["hold"]["reason"] == "valve swap"


def test_a_hold_without_a_time_lasts_until_its_release(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1")
    assert run("hold", "data1").output == "data1: held until released\n"
    assert "held until released" in run("status").output
    assert run("release", "data1").output == "data1: released\n"
    assert run("release", "--all").output == "all holds: released\n"
    assert json.loads(run("hold", "data1", "--json").output)["end_time"] is None
    assert json.loads(run("release", "data1", "--json").output)["epoch"] == "epoch-1"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("hold", "data1", "--for", "soon"), "'soon' is no duration, such as 90m, 2h or 1d12h"),
        (("hold", "data1", "--for", "0"), "must be more than 0 s"),
        (("hold",), "Missing argument"),
        (("release",), "Name one or more instances, or use --all, not both."),
        (("release", "data1", "--all"), "Name one or more instances, or use --all, not both."),
    ],
)
def test_mistakes_are_usage_errors(daemon: FakeDaemon, run: Run, arguments: list[str], why: str) -> None:
    daemon.add("data1")
    result = run(*arguments)
    assert result.exit_code == 2
    assert why in result.stderr


def test_an_unknown_instance_is_an_error_with_a_suggestion(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1")
    result = run("hold", "data2")
    assert result.exit_code == 4
    assert "did you mean 'data1'?" in result.stderr


def test_a_wait_for_a_held_instance_ends_at_once(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1", next_action=pb.NEXT_ACTION_DOWN, reason="Held", message="held until released")
    daemon.stubborn.add("data1")
    result = run("up", "data1", "--wait", "--timeout", "60")
    assert result.exit_code == 1
    assert "held until released" in result.stderr
