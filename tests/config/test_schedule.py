"""The key `schedule`: its words, time zones and the change of clocks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hostmanager_server.config.load import LoadedConfig
from hostmanager_server.config.schedule import next_run
from hostmanager_server.core.spec import Schedule

Instances = Callable[..., LoadedConfig]
Errors = Callable[[LoadedConfig], list[tuple[int, int, str]]]


@pytest.mark.parametrize(
    ("written", "schedule"),
    [
        ("'0 3 * * *'", Schedule("0 3 * * *")),
        ("'@hourly'", Schedule("@hourly")),
        (
            "{cron: '*/5 * * * mon-fri', timezone: Europe/Berlin, catch-up: 1h}",
            Schedule("*/5 * * * mon-fri", "Europe/Berlin", 3600.0),
        ),
    ],
)
def test_schedule(instances: Instances, written: str, schedule: Schedule) -> None:
    spec = instances(f"instance-id: a, restart: never, schedule: {written}").spec
    assert spec is not None
    assert spec.instances[0].schedule == schedule


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("schedule: '61 * * * *', restart: never", "not '61 * * * *': bad minute"),
        ("schedule: '* * * * * *', restart: never", "it has 6 fields, and needs 5"),
        ("schedule: '', restart: never", "it has 0 fields"),
        ("schedule: '0 0 31 2 *', restart: never", "not '0 0 31 2 *'"),
        ("schedule: {timezone: UTC}, restart: never", "needs cron: WORDS"),
        ("schedule: {cron: '@daily', timezone: Mars/Olympus}, restart: never", "no time zone 'Mars/Olympus'"),
        ("schedule: {cron: '@daily', catch-up: -1}, restart: never", "'catch-up' in 'schedule'"),
        ("schedule: '@daily'", "needs an instance that ends by itself: set restart: on-failure"),
        ("schedule: '@daily', restart: never, ready: {tcp: 1}", "needs an instance that ends by itself"),
    ],
)
def test_mistakes_have_a_place_and_a_remedy(
    instances: Instances, errors: Errors, written: str, why: str
) -> None:
    ((line, column, message),) = errors(instances(f"instance-id: a, {written}"))
    assert line == 5
    assert column > 44
    assert why in message


@pytest.mark.parametrize(
    ("cron", "after", "times"),
    [
        # In spring the clock goes from 2:00 to 3:00, in autumn from 3:00 back to 2:00.
        ("30 2 * * *", "2026-03-28T12:00+01:00", ["2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"]),
        ("30 2 * * *", "2026-10-24T12:00+02:00", ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]),
        ("0 * * * *", "2026-10-25T01:30+02:00", ["2026-10-25T02:00+02:00", "2026-10-25T02:00+01:00"]),
    ],
)
def test_each_run_comes_once_when_the_clocks_change(cron: str, after: str, times: list[str]) -> None:
    found = []
    moment = datetime.fromisoformat(after).timestamp()
    for _ in times:
        coming = next_run(Schedule(cron, "Europe/Berlin"), moment)
        assert coming is not None
        moment = coming
        found.append(moment)
    assert found == [datetime.fromisoformat(each).timestamp() for each in times]


def test_without_a_zone_the_time_of_the_machine_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    from hostmanager_server.linux import time_zones

    time_zones.load_zone.cache_clear()
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    try:
        coming = next_run(Schedule("0 3 * * *"), datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC")).timestamp())
    finally:
        time_zones.load_zone.cache_clear()
    assert coming == datetime(2026, 1, 2, 3, tzinfo=ZoneInfo("Asia/Tokyo")).timestamp()
