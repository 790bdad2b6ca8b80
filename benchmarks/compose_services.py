"""Compose services on a real Docker Engine, as the load of the compose benchmarks."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.table import NotHereError
from tests.docker_engine import ComposeProject, RealEngine, compose_projects, engine_or_reason, unique_name

PREFIX = "ocs-"  # the daemon's default for the prefix of instance ids


@dataclass(frozen=True, slots=True)
class Services:
    """A compose file with `count` services: s00, s01, … in the site config. No service runs at first."""

    project: ComposeProject
    count: int

    @property
    def engine(self) -> RealEngine:
        return self.project.engine

    @property
    def program(self) -> Path:
        """A compose program that logs its calls."""
        return self.project.file.parent / "counting-compose"

    def calls(self) -> list[str]:
        """Return the arguments of every call of `program` so far."""
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
    """Return the instance id of a service."""
    return f"s{number:02}"


@contextmanager
def services(count: int, special: Mapping[int, Mapping[str, Any]] | None = None) -> Iterator[Services]:
    """Provide `count` services, of a new image whose containers end at once on SIGTERM.

    `special` has further settings of some services, by number.

    At the end, everything created on the engine is removed. Raises NotHereError without an engine.
    """
    engine = engine_or_reason()
    if isinstance(engine, str):
        raise NotHereError(engine)
    image = f"{unique_name('hmbench')}:1"
    # Without a network, whose creation would count as well.
    service = {"image": image, "network_mode": "none"}
    each = {PREFIX + instance_id(n): {**service, **(special or {}).get(n, {})} for n in range(count)}
    text = yaml.safe_dump({"services": each})
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
