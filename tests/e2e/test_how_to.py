"""Runs of the how-to pages against a real daemon."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hostmanager.v1 import host_manager_pb2 as pb

from tests.e2e.daemon import Site
from tests.e2e.test_tutorials import follow, run, save_files
from tests.repo.pages import ROOT
from tests.waiting import wait_until

HOW_TO = ROOT / "docs" / "how-to"


def test_a_hold_outlives_the_daemon_as_the_page_says(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    page = HOW_TO / "hold.md"
    save_files(page, site.folder)
    steps: dict[str, Callable[[], None]] = {
        "hostmanager hold": lambda: wait_for_state(site, pb.NEXT_ACTION_UP),
        "hostmanager status": lambda: wait_for_state(site, pb.NEXT_ACTION_DOWN),
    }

    def prepared(site: Site, line: str) -> str:
        for start, prepare in steps.items():
            if line.startswith(start):
                prepare()
        return run(site, line)

    monkeypatch.setattr("tests.e2e.test_tutorials.run", prepared)
    outputs = follow(site, page)
    assert "(valve swap)\n" in outputs['hostmanager hold cryo --for 2h --reason "valve swap"']
    assert "UTC (valve swap); last exit: code 1" in outputs["hostmanager status"]
    shown = outputs["hostmanager show cryo"]
    assert "held because:" in shown
    assert "valve swap" in shown
    assert "in 2 h" in shown or "in 1 h" in shown
    assert outputs["hostmanager release cryo"] == "cryo: released\n"
    assert outputs["hostmanager up cryo || true"] == ""
    first, second = site.daemons
    assert first.process.poll() is not None
    restored = [event.message for event in second.events() if event.reason == "HoldsRestored"]
    assert len(restored) == 1
    assert "cryo held until" in restored[0]
    launches = [event for event in second.events("cryo") if event.reason == "Launching"]
    assert len(launches) == 1, "only the release started the agent"


def test_one_shots_work_as_the_page_says(site: Site) -> None:
    page = HOW_TO / "one-shots.md"
    save_files(page, site.folder)
    outputs = follow(site, page)
    waited = outputs["hostmanager up migrate data1 --wait"]
    assert "2 instances reached the target" in waited
    rows = {line.partition(" ")[0]: line for line in outputs["hostmanager status"].splitlines()}
    assert rows["migrate"].split()[2:4] == ["up", "down"]
    assert rows["migrate"].endswith("completed with code 0")
    assert rows["data1"].split()[2:4] == ["up", "up"]
    assert outputs["hostmanager run calibrate"] == "calibrating with defaults\n"
    assert outputs["hostmanager run Calibration -- lamp2"] == "calibrating with lamp2\n"
    failed = outputs['hostmanager run calibrate -- broken || echo "the agent ended with $?"']
    assert failed == "calibrating with broken\nthe agent ended with 1\n"
    assert "Failed" in outputs["hostmanager show calibrate"]
    assert outputs['hostmanager run migrate -- --force || echo "refused: $?"'] == "refused: 125\n"
    daemon = site.daemons[-1]
    assert daemon.instance("calibrate").target_state == pb.TARGET_STATE_DOWN


def wait_for_state(site: Site, state: pb.NextAction.ValueType) -> None:
    daemon = site.daemons[-1]
    wait_until(lambda: daemon.instance("cryo").next_action == state, f"cryo in state {state}")
