"""Links at the paths of the lock files of a socket and of a state directory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.daemon import Site

TEXT = "only the owner writes this\n"


def link(place: Path, victim: Path) -> None:
    place.symlink_to(victim)


def link_to_nothing(place: Path, victim: Path) -> None:
    place.symlink_to(victim.with_name("new"))


def hard_link(place: Path, victim: Path) -> None:
    place.hardlink_to(victim)


def fifo(place: Path, _: Path) -> None:
    os.mkfifo(place)


def refused_start(site: Site) -> str:
    """Start a daemon that must fail; return its log."""
    site.write([])
    daemon = site.start(wait=False)
    assert daemon.process.wait(60) == 1
    return daemon.log.read_text()


@pytest.fixture
def victim(site: Site) -> Path:
    """Create a file of another user, which must stay unchanged."""
    folder = site.folder / "elsewhere"
    folder.mkdir()
    file = folder / "victim"
    file.write_text(TEXT)
    return file


@pytest.mark.parametrize("plant", [link, link_to_nothing, hard_link, fifo])
def test_a_planted_file_at_the_path_of_a_socket_lock_is_not_written_to(
    site: Site, victim: Path, plant: Callable[[Path, Path], None]
) -> None:
    plant(Path(f"{site.socket}.lock"), victim)
    log = refused_start(site)
    reasons: dict[Callable[[Path, Path], None], str] = {
        hard_link: "has another name (a hard link)",
        fifo: "is no regular file",
    }
    why = reasons.get(plant, "is a symbolic link")
    assert f"cannot listen on unix:{site.socket}: '{site.socket}.lock' {why}; " in log
    assert victim.read_text() == TEXT
    assert list(victim.parent.iterdir()) == [victim]


def test_a_link_at_the_path_of_a_state_directory_lock_is_not_followed(site: Site, victim: Path) -> None:
    site.state_dir.mkdir()
    link(site.state_dir / "lock", victim)
    log = refused_start(site)
    assert f"cannot use the state directory {site.state_dir}" in log
    assert victim.read_text() == TEXT
