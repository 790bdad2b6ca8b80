"""Watching files: every way in which one may come to be another."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hostmanager_server.drivers.compose.files import file_watch
from hostmanager_server.drivers.compose.files.file_watch import FileWatch
from inotify_simple import INotify

from tests.drivers.conftest import EpollPoller


@dataclass
class Watched:
    """A watch whose calls are counted."""

    poller: EpollPoller = field(default_factory=EpollPoller)
    calls: int = 0

    def __post_init__(self) -> None:
        self.watch = FileWatch(self.poller, self.changed)

    def changed(self) -> None:
        self.calls += 1

    def expect_a_call(self) -> None:
        before = self.calls
        self.poller.wait_for(lambda: self.calls > before)

    def expect_none(self, marker: Path) -> None:
        """No call before that of a change made now, which is the next."""
        before = self.calls
        self.poller.turn(0.0)  # the kernel tells of a change before the change returns
        self.poller.wait_for(lambda: not self.poller._calls)  # what is being waited for has been told
        assert self.calls == before
        marker.write_text("now")
        self.expect_a_call()
        assert self.calls == before + 1


@pytest.fixture
def watched() -> Iterator[Watched]:
    watched = Watched()
    yield watched
    watched.watch.close()
    watched.poller.close()


def test_a_file_that_is_written_replaced_removed_and_made_again(watched: Watched, tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text("1")
    watched.watch.watch([file])
    file.write_text("2")
    watched.expect_a_call()
    (tmp_path / "new").write_text("3")
    (tmp_path / "new").rename(file)
    watched.expect_a_call()
    file.unlink()
    watched.expect_a_call()
    file.write_text("4")
    watched.expect_a_call()


def test_many_changes_at_once_are_told_once(watched: Watched, tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(20)]
    watched.watch.watch(paths)
    for path in paths:
        path.write_text("x")
    watched.expect_a_call()
    assert watched.calls == 1


def test_other_files_of_the_folder_do_not_matter(watched: Watched, tmp_path: Path) -> None:
    watched.watch.watch([tmp_path / "compose.yaml"])
    (tmp_path / "data.log").write_text("x")
    watched.expect_none(tmp_path / "compose.yaml")


def test_a_file_whose_folder_does_not_exist_yet(watched: Watched, tmp_path: Path) -> None:
    file = tmp_path / "lab" / "night" / "compose.yaml"
    watched.watch.watch([file])
    file.parent.mkdir(parents=True)
    watched.expect_a_call()
    file.write_text("x")
    watched.expect_a_call()


def test_a_folder_that_goes_and_comes_back(watched: Watched, tmp_path: Path) -> None:
    file = tmp_path / "lab" / "compose.yaml"
    file.parent.mkdir()
    file.write_text("x")
    watched.watch.watch([file])
    shutil.rmtree(file.parent)
    watched.expect_a_call()
    file.parent.mkdir()
    watched.expect_a_call()
    file.write_text("y")
    watched.expect_a_call()


def test_a_link_and_what_it_leads_to(watched: Watched, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    for name in ("one", "two"):
        (tmp_path / name / "compose.yaml").write_text(name)
    link = tmp_path / "current"
    link.symlink_to("one")
    watched.watch.watch([link / "compose.yaml"])
    (tmp_path / "one" / "compose.yaml").write_text("more")
    watched.expect_a_call()
    (tmp_path / "fresh").symlink_to("two")
    os.rename(tmp_path / "fresh", link)
    watched.expect_a_call()
    (tmp_path / "two" / "compose.yaml").write_text("more")
    watched.expect_a_call()


def test_what_is_no_longer_watched_is_let_go(watched: Watched, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    watched.watch.watch([tmp_path / "a" / "x"])
    watched.watch.watch([tmp_path / "b" / "x"])
    (tmp_path / "a" / "x").write_text("1")
    watched.expect_none(tmp_path / "b" / "x")


def test_without_watches_to_be_had_it_says_what_to_do(
    watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(INotify, "add_watch", none_left)
    watched.watch.watch([tmp_path / "compose.yaml"])
    assert "raise fs.inotify.max_user_watches" in watched.watch.problem


def test_a_closed_watch_calls_back_no_more(watched: Watched, tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    watched.watch.watch([file])
    file.write_text("x")
    watched.poller.wait_for(lambda: bool(watched.poller._calls))
    watched.watch.close()
    other = Watched(watched.poller)
    other.watch.watch([file])
    file.write_text("y")
    other.expect_a_call()
    assert watched.calls == 0
    other.watch.close()


def test_the_settling_time_is_short() -> None:
    assert 0.0 < file_watch.SETTLE <= 0.5
