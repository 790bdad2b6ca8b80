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


BROKEN = """hosts: {localhost: {agent-instances: [
{agent-class: A, instance-id: a, command: [a]}, {agent-class: A, instance-id: b, command: [b], nice: 99}]}}
"""


def site_with(folder: Path, text: str, *, strict: bool = False) -> SiteFile:
    file = folder / "site.yaml"
    file.write_text(text)
    file.chmod(0o600)
    settings = DaemonSettings(file, folder, (), host="localhost", working_dir=folder, strict=strict)
    return SiteFile(settings)


def test_without_a_last_good_config_the_entries_without_errors_count(tmp_path: Path) -> None:
    config = site_with(tmp_path, BROKEN).load()
    assert config.spec is not None
    assert [spec.instance_id for spec in config.spec.instances if not spec.problem] == ["a"]
    assert (config.ok, config.stale, config.left_out) == (False, False, ("b",))


def test_a_strict_daemon_uses_no_file_with_errors(tmp_path: Path) -> None:
    assert site_with(tmp_path, BROKEN, strict=True).load().spec is None


def test_the_last_good_config_goes_before_the_entries_without_errors(tmp_path: Path) -> None:
    site = site_with(tmp_path, TEXT)
    site.keep(site.load())
    config = site_with(tmp_path, BROKEN).load()
    assert (config.stale, config.spec) == (True, site_with(tmp_path, TEXT).load().spec)


def test_a_file_with_errors_changes_nothing_once_a_config_is_in_force(tmp_path: Path) -> None:
    site = site_with(tmp_path, TEXT)
    site.keep(site.load())
    (tmp_path / "site.yaml").write_text(BROKEN)
    assert not site.load().ok
