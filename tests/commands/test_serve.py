"""Signals of the daemon's process."""

from __future__ import annotations

import asyncio
import signal
from typing import cast

import pytest
from hostmanager_server.commands import serve
from hostmanager_server.daemon import upgrade
from hostmanager_server.daemon.app import DaemonOutcome
from hostmanager_server.daemon.settings import DaemonSettings


class ClosingApp:
    """A fake of App that upgrades while a signal arrives and the event loop is busy."""

    def __init__(self, settings: DaemonSettings) -> None:
        self.impatient = False

    async def run(self, *_: object) -> DaemonOutcome:
        signal.raise_signal(signal.SIGTERM)
        return DaemonOutcome(0, lock=3)

    def terminate(self, signum: int) -> None:
        self.impatient = True

    def reload(self) -> None: ...

    def upgrade_soon(self) -> None: ...


def test_a_signal_that_arrives_while_the_daemon_closes_stays_pending_for_the_successor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serve, "App", ClosingApp)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        asyncio.run(serve._serve(cast("DaemonSettings", None)))
        assert signal.sigpending() == {signal.SIGTERM}
    finally:
        while signal.sigtimedwait(upgrade.HELD_SIGNALS, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
