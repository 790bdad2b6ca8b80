"""Fixtures for fault tests: a site per test, without remaining processes or zombies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemon import Site
from tests.faults.machine import MountNamespace, zombies
from tests.waiting import wait_until


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Create a site; its daemons must reap all children by the end of the test."""
    site = Site(tmp_path)
    yield site
    running = [daemon for daemon in site.daemons if daemon.process.poll() is None]
    for daemon in running:
        os.kill(daemon.pid, signal.SIGCONT)
    try:
        # The daemon may need a moment to reap a child that ended just now.
        wait_until(lambda: not any(zombies(daemon) for daemon in running), "every ended child to be reaped")
    finally:
        site.clean_up()


@pytest.fixture
def namespace() -> Iterator[MountNamespace]:
    """Create a private mount namespace."""
    namespace = MountNamespace()
    yield namespace
    namespace.close()
