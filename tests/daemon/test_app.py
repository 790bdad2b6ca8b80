"""Requests to end the daemon during its lifecycle."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostmanager_server.core.events import Instant
from hostmanager_server.core.origin import Origin, OriginKind
from hostmanager_server.core.plan import ALL, TargetChange
from hostmanager_server.core.recovery import Recovered
from hostmanager_server.core.spec import Target
from hostmanager_server.daemon.app import App
from hostmanager_server.daemon.recovery import JournalRecovery
from hostmanager_server.daemon.settings import DaemonSettings
from hostmanager_server.supervisor import ReplacingError

ORIGIN = Origin(OriginKind.CALL, Instant(1.0, 1.0))


async def test_a_daemon_that_upgrades_refuses_a_request_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hostmanager_server.daemon.app.preflight", lambda *_: "9.9")

    app = App(DaemonSettings(tmp_path / "site.yaml", tmp_path / "state", ()))
    await app.upgrade(validate_only=True)
    app.exit(frozenset(), ORIGIN)
    app = App(DaemonSettings(tmp_path / "site.yaml", tmp_path / "state", ()))
    await app.upgrade()
    with pytest.raises(ReplacingError):
        app.exit(frozenset(), ORIGIN)


async def test_a_signal_during_the_start_keeps_instances_from_starting(tmp_path: Path) -> None:
    app = App(DaemonSettings(tmp_path / "site.yaml", tmp_path / "state", ()))
    recovery = JournalRecovery(Recovered(), crashed=True, keeps_targets=True, manager_stopped=False)
    assert app._initial_changes(recovery) == []
    app.terminate()
    assert app._initial_changes(recovery) == [TargetChange(ALL, Target.DOWN)]
