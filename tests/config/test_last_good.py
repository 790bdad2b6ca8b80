"""The copy of the last site config in force."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest
from hostmanager_server.config.last_good import LastGood
from hostmanager_server.config.load import LoadedConfig

PLANTED = pytest.mark.parametrize("kind", ["pipe", "link", "hard link"])


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


@PLANTED
def test_a_foreign_file_in_the_place_of_the_copy_is_absent_and_is_replaced(
    tmp_path: Path, loaded: LoadedConfig, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    victim = tmp_path / "victim"
    victim.write_text(json.dumps({"file": loaded.file, "text": loaded.text}))
    victim.chmod(0o600)
    before = victim.read_bytes()
    copy = tmp_path / "site-config.json"
    match kind:
        case "pipe":
            os.mkfifo(copy)
        case "link":
            copy.symlink_to(victim)
        case "hard link":
            copy.hardlink_to(victim)
    kept = LastGood(tmp_path)
    (tmp_path / "site.yaml").write_text("hosts: [")

    def load_and_keep() -> None:
        assert not kept.load(tmp_path / "site.yaml", host="localhost", working_dir=tmp_path).ok
        kept.keep(loaded)

    worker = threading.Thread(target=load_and_keep, daemon=True)  # the open of a pipe would never return
    worker.start()
    worker.join(20)
    assert not worker.is_alive()
    assert caplog.text.count("cannot use the copy") == 1
    assert victim.read_bytes() == before
    assert stat.S_ISREG(copy.lstat().st_mode)
    assert copy.stat().st_nlink == 1
    assert kept.load(tmp_path / "site.yaml", host="localhost", working_dir=tmp_path).stale


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_copy_of_another_user_is_not_used(tmp_path: Path, loaded: LoadedConfig) -> None:
    LastGood(tmp_path).keep(loaded)
    copy = tmp_path / "site-config.json"
    os.chown(copy, 4711, 0)
    (tmp_path / "site.yaml").write_text("hosts: [")
    assert not LastGood(tmp_path).load(tmp_path / "site.yaml", host="localhost", working_dir=tmp_path).stale
    LastGood(tmp_path).keep(loaded)
    assert copy.stat().st_uid == 0


def test_a_copy_without_bounds_is_not_used(
    tmp_path: Path, loaded: LoadedConfig, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tmp_path / "site-config.json"
    copy.touch(mode=0o600)
    os.truncate(copy, 2**40)  # a sparse file
    LastGood(tmp_path).keep(loaded)
    assert "the copy has more than" in caplog.text
    assert copy.stat().st_size < 2**20
