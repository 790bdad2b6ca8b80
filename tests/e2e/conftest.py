"""Every test here gets a site of its own; whatever its daemons leave behind is killed after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker_engine import DockerEngine, MakeProject
from tests.e2e.daemon import Site
from tests.e2e.lab import Lab


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.leave_nothing()


@pytest.fixture
def lab(site: Site, engine: DockerEngine, image: str, compose_project: MakeProject) -> Iterator[Lab]:
    """A site with a compose project of its own on the machine's engine."""
    yield Lab(site, engine, image, compose_project)
    site.leave_nothing()  # a daemon, or what it has called, would bring up again what is removed now
