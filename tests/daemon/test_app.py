"""Requests to end the daemon during its lifecycle."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostmanager_server.daemon.app import App
from hostmanager_server.daemon.settings import DaemonSettings
from hostmanager_server.supervisor import ReplacingError


async def test_a_daemon_that_upgrades_refuses_a_request_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hostmanager_server.daemon.app.preflight", lambda *_: "9.9")

    app = App(DaemonSettings(tmp_path / "site.yaml", tmp_path / "state", ()))
    await app.upgrade(validate_only=True)
    app.exit(frozenset())
    app = App(DaemonSettings(tmp_path / "site.yaml", tmp_path / "state", ()))
    await app.upgrade()
    with pytest.raises(ReplacingError):
        app.exit(frozenset())
