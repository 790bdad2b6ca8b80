"""The copy of the site config that was in force last."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostmanager_server.config.last_good import LastGood
from hostmanager_server.config.load import LoadedConfig


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedConfig:
    file = tmp_path / "site.yaml"
    file.write_text("hosts: {localhost: {agent-instances: []}}\n")
    return LastGood(tmp_path).load(file, host="localhost", working_dir=tmp_path)


def test_it_is_for_its_user_only_also_where_the_folder_is_for_all(
    tmp_path: Path, loaded: LoadedConfig
) -> None:
    tmp_path.chmod(0o755)
    copy = tmp_path / "site-config.json"
    LastGood(tmp_path).keep(loaded)
    assert copy.stat().st_mode & 0o777 == 0o600
    copy.chmod(0o644)  # as one of an earlier version
    (tmp_path / "site-config.new").write_text("of a daemon that died over it")
    LastGood(tmp_path).keep(loaded)
    assert copy.stat().st_mode & 0o777 == 0o600
