"""The site config file of a daemon, from the reading of its options to reloads."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostmanager_server.config import load as load_module
from hostmanager_server.config.document import Node, compose
from hostmanager_server.config.reload import RepeatedLoad
from hostmanager_server.daemon.settings import DaemonSettings
from hostmanager_server.daemon.site_file import SiteFile

TEXT = "hosts: {localhost: {agent-instances: [{agent-class: A, instance-id: a, command: [a]}]}}\n"


def test_a_start_parses_the_file_once_and_a_reload_of_the_same_file_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[str] = []

    def recorded(text: str, kept: dict[str, tuple[int, int]]) -> Node | None:
        texts.append(text)
        return compose(text, kept)

    monkeypatch.setattr(load_module, "compose", recorded)
    file = tmp_path / "site.yaml"
    file.write_text(TEXT)
    file.chmod(0o600)
    reader = RepeatedLoad()
    options = reader.load(file, host="localhost", working_dir=tmp_path).options
    site = SiteFile(
        DaemonSettings(
            file, tmp_path, (), host="localhost", working_dir=tmp_path, options=options, site=reader
        )
    )
    first = site.load()
    assert first.ok
    site.keep(first)
    assert site.load() == first
    assert texts == [TEXT]
    file.write_text(TEXT.replace("[a]", "[b]"))
    assert site.load() != first
