"""The selection of events on the command line."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import Result
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client.cli.moments import parse_moment

from tests.client.cli_runner import command_line, make_runner
from tests.client.fake_daemon import FakeDaemon

Run = Callable[..., Result]


@pytest.fixture
def run(socket: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("HOSTMANAGER_ADDRESS", str(socket))
    return lambda *args: make_runner().invoke(command_line, args, prog_name="hostmanager")


def test_events_takes_times_reasons_and_a_severity(daemon: FakeDaemon, run: Run) -> None:
    words = ("--until", "2026-11-28 04:00", "--reason", "Up", "--reason", "Down", "--severity", "warning")
    run("events", "--since", "2h", *words)
    request = daemon.requests[-1]
    assert isinstance(request, pb.ListEventsRequest)
    assert time.time() - request.since.seconds == pytest.approx(7200, abs=60)
    assert request.until.ToDatetime() == datetime.fromtimestamp(
        datetime.fromisoformat("2026-11-28 04:00").timestamp(), UTC
    ).replace(tzinfo=None)
    assert (list(request.reasons), request.min_severity) == (["Up", "Down"], pb.SEVERITY_WARNING)
    assert request.newest == 100_000, "all events since then, not the last 50"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--since", "soon"), "cannot read 'soon' as a time: give a duration such as"),
        (("--since", "25:00"), "cannot read '25:00' as a time"),
        (("--since", "99999999999d"), "cannot read '99999999999d' as a time"),
        (("--severity", "loud"), "'loud' is not one of 'info', 'warning', 'error'"),
        (("-f", "--until", "1h"), "--follow and --until exclude each other"),
    ],
)
def test_events_refuses_what_it_cannot_read(run: Run, words: tuple[str, ...], error: str) -> None:
    done = run("events", *words)
    assert done.exit_code == 2
    assert error in done.stderr


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", "2026-11-28 11:58:30"),
        ("15min", "2026-11-28 11:45:00"),
        ("1d12h ago", "2026-11-27 00:00:00"),
        ("1.5h", "2026-11-28 10:30:00"),
        ("2w", "2026-11-14 12:00:00"),
        ("today", "2026-11-28 00:00:00"),
        ("yesterday", "2026-11-27 00:00:00"),
        ("07:30", "2026-11-28 07:30:00"),
        ("2026-11-01", "2026-11-01 00:00:00"),
        ("2026-11-01T02:03:04", "2026-11-01 02:03:04"),
    ],
)
def test_a_time_is_read_as_people_write_it(text: str, moment: str) -> None:
    now = datetime.fromisoformat("2026-11-28 12:00")
    assert f"{parse_moment(text, now):%Y-%m-%d %H:%M:%S}" == moment
