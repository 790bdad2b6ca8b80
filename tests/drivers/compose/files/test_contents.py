"""Tests of digests of secrets and configs, on real files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hostmanager_server.core.catalog import Project
from hostmanager_server.core.spec import ServiceContents, ServiceSpec
from hostmanager_server.drivers.compose.files.contents import inline_digest, with_contents


def contents_of(*files: Path) -> ServiceContents:
    spec = ServiceSpec("lab", ("/c.yaml",), "a", "i", content_files=tuple(map(str, files)))
    return with_contents(Project("lab", ("/c.yaml",), {"a": spec})).services["a"].contents


def test_the_digest_follows_the_content_and_not_the_time(tmp_path: Path) -> None:
    file, other = tmp_path / "key", tmp_path / "other"
    file.write_text("one")
    other.write_text("two")
    first = contents_of(file)
    assert first.files
    assert "one" not in repr(first)
    assert first.files not in repr(first)
    os.utime(file)
    assert contents_of(file).files == first.files
    file.write_text("two")
    assert contents_of(file).files not in (first.files, "")
    assert contents_of(file).files == contents_of(other).files
    assert contents_of(file, other).files != contents_of(file).files


def test_a_file_moved_into_the_place_counts_as_changed_then(tmp_path: Path) -> None:
    file, old = tmp_path / "key", tmp_path / "old"
    old.write_text("one")
    os.utime(old, (0, 0))
    before = old.stat().st_ctime
    old.rename(file)
    assert contents_of(file).changed >= before > 0.0
    link = tmp_path / "link"
    link.symlink_to(file)
    assert contents_of(link).changed >= contents_of(file).changed


def test_no_other_kind_of_file_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for file in (tmp_path / "pipe", tmp_path, tmp_path / "missing", Path("/dev/zero")):
        assert contents_of(file).changed == 0.0


def test_a_change_of_an_unreadable_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key"
    file.write_text("one")

    def refuse(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "open", refuse)
    before = contents_of(file)
    assert before.changed == file.stat().st_ctime
    os.utime(file, (1, 1))
    assert contents_of(file).files != before.files


def test_the_size_of_a_large_file_counts(tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(b"a" * (1 << 20))
    before = contents_of(file).files
    with file.open("ab") as stream:
        stream.truncate(1 << 30)
    assert contents_of(file).files != before


def test_inline_contents_have_a_digest_by_name() -> None:
    assert inline_digest({}) == ""
    assert (
        len({inline_digest({"a": "b"}), inline_digest({"b": "a"}), inline_digest({"a": "b", "c": ""})}) == 3
    )
