"""The copy of the last site config in force."""

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


def test_only_its_user_may_read_the_copy_also_in_a_public_folder(
    tmp_path: Path, loaded: LoadedConfig
) -> None:
    tmp_path.chmod(0o755)
    copy = tmp_path / "site-config.json"
    LastGood(tmp_path).keep(loaded)
    assert copy.stat().st_mode & 0o777 == 0o600
    copy.chmod(0o644)  # like the copy of an earlier version
    (tmp_path / "site-config.new").write_text("the rest of a daemon that died while writing")
    LastGood(tmp_path).keep(loaded)
    assert copy.stat().st_mode & 0o777 == 0o600
