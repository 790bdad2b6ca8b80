"""Fixtures of the end-to-end tests: sites and compose projects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker_engine import MakeProject, RealEngine
from tests.e2e.daemon import Site
from tests.e2e.lab import Lab


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Return a site for one test, and kill its processes after the test."""
    site = Site(tmp_path)
    yield site
    site.clean_up()


@pytest.fixture
def lab(site: Site, engine: RealEngine, image: str, compose_project: MakeProject) -> Iterator[Lab]:
    """Return a site whose daemons manage a compose project on the machine's engine."""
    yield Lab(site, engine, image, compose_project)
    site.clean_up()  # before the project: a daemon, or its compose, would start removed containers again
