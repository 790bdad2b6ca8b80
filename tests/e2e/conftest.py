"""Every test here gets a site of its own; whatever its daemons leave behind is killed after it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemon import Site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site(tmp_path)
    monkeypatch.setenv("TEST_SITE", str(site.state_dir))
    yield site
    for daemon in site.daemons:
        if daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()
        daemon.channel.close()
    for pid in site.processes():
        os.kill(pid, signal.SIGKILL)
