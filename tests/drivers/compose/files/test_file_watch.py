"""Tests of the file watch: every way in which a file's content may change."""

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
class CountingWatch:
    """A watch that counts its callbacks."""

    poller: EpollPoller = field(default_factory=EpollPoller)
    calls: int = 0

    def __post_init__(self) -> None:
        self.watch = FileWatch(self.poller, self.changed)

    def changed(self) -> None:
        self.calls += 1

    def expect_callback(self) -> None:
        before = self.calls
        self.poller.wait_for(lambda: self.calls > before)

    def expect_no_callback(self, marker: Path) -> None:
        """Check that no callback comes before the callback of a change made now."""
        before = self.calls
        self.poller.turn(0.0)  # the kernel queues an event before the change returns
        self.poller.wait_for(lambda: not self.poller._calls)  # no timer of an earlier change is left
        assert self.calls == before
        marker.write_text("now")
        self.expect_callback()
        assert self.calls == before + 1


@pytest.fixture
def watched() -> Iterator[CountingWatch]:
    watched = CountingWatch()
    yield watched
    watched.watch.close()
    watched.poller.close()


def test_writing_replacing_removing_and_creating_a_file_are_noticed(
    watched: CountingWatch, tmp_path: Path
) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text("1")
    watched.watch.watch([file])
    file.write_text("2")
    watched.expect_callback()
    (tmp_path / "new").write_text("3")
    (tmp_path / "new").rename(file)
    watched.expect_callback()
    file.unlink()
    watched.expect_callback()
    file.write_text("4")
    watched.expect_callback()


def test_simultaneous_changes_are_one_callback(watched: CountingWatch, tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(20)]
    watched.watch.watch(paths)
    for path in paths:
        path.write_text("x")
    watched.expect_callback()
    assert watched.calls == 1


def test_other_files_of_the_folder_do_not_matter(watched: CountingWatch, tmp_path: Path) -> None:
    watched.watch.watch([tmp_path / "compose.yaml"])
    (tmp_path / "data.log").write_text("x")
    watched.expect_no_callback(tmp_path / "compose.yaml")


def test_a_new_folder_and_its_file_are_noticed(watched: CountingWatch, tmp_path: Path) -> None:
    file = tmp_path / "lab" / "night" / "compose.yaml"
    watched.watch.watch([file])
    file.parent.mkdir(parents=True)
    watched.expect_callback()
    file.write_text("x")
    watched.expect_callback()


def test_a_removed_and_recreated_folder_is_noticed(watched: CountingWatch, tmp_path: Path) -> None:
    file = tmp_path / "lab" / "compose.yaml"
    file.parent.mkdir()
    file.write_text("x")
    watched.watch.watch([file])
    shutil.rmtree(file.parent)
    watched.expect_callback()
    file.parent.mkdir()
    watched.expect_callback()
    file.write_text("y")
    watched.expect_callback()


def test_changes_of_a_link_and_of_its_target_are_noticed(watched: CountingWatch, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    for name in ("one", "two"):
        (tmp_path / name / "compose.yaml").write_text(name)
    link = tmp_path / "current"
    link.symlink_to("one")
    watched.watch.watch([link / "compose.yaml"])
    (tmp_path / "one" / "compose.yaml").write_text("more")
    watched.expect_callback()
    (tmp_path / "fresh").symlink_to("two")
    os.rename(tmp_path / "fresh", link)
    watched.expect_callback()
    (tmp_path / "two" / "compose.yaml").write_text("more")
    watched.expect_callback()


def test_files_of_an_earlier_watch_are_ignored(watched: CountingWatch, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    watched.watch.watch([tmp_path / "a" / "x"])
    watched.watch.watch([tmp_path / "b" / "x"])
    (tmp_path / "a" / "x").write_text("1")
    watched.expect_no_callback(tmp_path / "b" / "x")


def test_a_lack_of_inotify_watches_is_reported_with_the_remedy(
    watched: CountingWatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(INotify, "add_watch", none_left)
    watched.watch.watch([tmp_path / "compose.yaml"])
    assert "raise fs.inotify.max_user_watches" in watched.watch.problem


def test_a_closed_watch_makes_no_callback(watched: CountingWatch, tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    watched.watch.watch([file])
    file.write_text("x")
    watched.poller.wait_for(lambda: bool(watched.poller._calls))
    watched.watch.close()
    other = CountingWatch(watched.poller)
    other.watch.watch([file])
    file.write_text("y")
    other.expect_callback()
    assert watched.calls == 0
    other.watch.close()


def test_the_settling_time_is_short() -> None:
    assert 0.0 < file_watch.SETTLE_TIME <= 0.5
