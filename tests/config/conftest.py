"""Fixtures that load site configs, each in the folder of its test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hostmanager_server.config.load import LoadedConfig, load_site_config
from hostmanager_server.core.event_log import Severity

HEAD = "agent-classes: {Agent: {command: [agent, --go]}}\nhosts:\n  localhost:\n    agent-instances:\n"


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], LoadedConfig]:
    """Return a function that loads a text as a site config, in `tmp_path`."""

    def load(text: str) -> LoadedConfig:
        file = tmp_path / "site.yaml"
        file.write_text(text, encoding="utf-8")
        file.chmod(0o600)
        return load_site_config(file, host="localhost", working_dir=tmp_path)

    return load


@pytest.fixture
def instances(load: Callable[[str], LoadedConfig]) -> Callable[..., LoadedConfig]:
    """Return a function that loads entries of `agent-instances`.

    Each entry is the inside of a flow mapping. Entries without `agent-class` get the class Agent. The first
    entry stands in line 5.
    """

    def load_instances(*entries: str) -> LoadedConfig:
        lines = [
            f"    - {{{entry if 'agent-class' in entry else f'agent-class: Agent, {entry}'}}}\n"
            for entry in entries
        ]
        return load(HEAD + "".join(lines))

    return load_instances


@pytest.fixture
def errors() -> Callable[[LoadedConfig], list[tuple[int, int, str]]]:
    def errors(config: LoadedConfig) -> list[tuple[int, int, str]]:
        return [(p.line, p.column, p.message) for p in config.problems if p.severity is Severity.ERROR]

    return errors
