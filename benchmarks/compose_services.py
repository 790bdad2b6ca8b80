"""Compose services on a real engine, for everybody that is measured on them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.table import NotHereError
from tests.docker_engine import ComposeProject, DockerEngine, compose_projects, engine_or_reason, unique_name

PREFIX = "ocs-"  # what the daemon expects before an instance id, unless told otherwise


@dataclass(frozen=True, slots=True)
class Services:
    """`count` services in one compose file: s00, s01, … to the site config. Nothing of them runs at first."""

    project: ComposeProject
    count: int

    @property
    def engine(self) -> DockerEngine:
        return self.project.engine

    @property
    def program(self) -> Path:
        """The compose program for whoever is to have their calls counted."""
        return self.project.file.parent / "counting-compose"

    def calls(self) -> list[str]:
        """The arguments of every call of `program` so far."""
        return self._log.read_text().splitlines()

    @property
    def _log(self) -> Path:
        return self.project.file.parent / "calls"

    def prepare(self) -> None:
        """Write `program`."""
        self._log.touch()
        self.program.write_text(f'#!/bin/sh\necho "$*" >> {self._log}\nexec docker compose "$@"\n')
        self.program.chmod(0o755)


def instance_id(number: int) -> str:
    """What the site config calls the service."""
    return f"s{number:02}"


@contextmanager
def services(count: int) -> Iterator[Services]:
    """So many services of an image made on the spot, which ends at once when it is told to. Raises
    NotHereError where there is no engine. What was made on the engine is gone from it at the end."""
    engine = engine_or_reason()
    if isinstance(engine, str):
        raise NotHereError(engine)
    image = f"{unique_name('hmbench')}:1"
    # Without a network: what is measured is not how long it takes to make one.
    service = {"image": image, "network_mode": "none"}
    text = yaml.safe_dump({"services": {PREFIX + instance_id(n): dict(service) for n in range(count)}})
    try:
        engine.import_image(image)
        with (
            tempfile.TemporaryDirectory(prefix="hm-bench-") as folder,
            compose_projects(Path(folder), engine) as make,
        ):
            made = Services(make(text, name=None), count)
            made.prepare()
            yield made
    finally:
        engine.remove_images()
