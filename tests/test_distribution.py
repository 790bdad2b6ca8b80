"""The version and the entry points of the distribution, against importlib.metadata."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest
from hostmanager import distribution

GROUP = "hostmanager.commands"


def test_the_version_and_the_entry_points_are_those_of_the_metadata() -> None:
    assert distribution.version() == metadata.version("hostmanager")
    points = [p for p in metadata.entry_points(group=GROUP) if p.dist and p.dist.name == "hostmanager"]
    assert points
    assert {p.name: distribution.entry_point(GROUP, p.name) for p in points} == {
        p.name: p.value for p in points
    }
    assert distribution.entry_point(GROUP, "nosuch") == distribution.entry_point("nosuch", "serve") == ""


def test_the_first_directory_on_the_path_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "hostmanager-7.8.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.4\nName: hostmanager\nVersion: 7.8\n\nVersion: 9\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "no-directory"), str(tmp_path), *sys.path])
    assert distribution.version() == "7.8"
    assert distribution.entry_point(GROUP, "serve") == "", "this one has no entry points"


@pytest.mark.parametrize("second", ["hostmanager-2.dist-info", "hostmanager-1.dist-info/METADATA"])
def test_a_doubtful_installation_is_left_to_importlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: str
) -> None:
    (tmp_path / "hostmanager-1.dist-info").mkdir()
    (tmp_path / second).mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(metadata, "version", lambda name: f"{name} asked")
    assert distribution.version() == "hostmanager asked"
