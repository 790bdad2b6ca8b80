"""The remembered events: what a later daemon reads, what damage costs, and what bounds the files."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hostmanager_server.core.event_log import EntryKind, LogEntry, Severity
from hostmanager_server.core.event_selection import ALL_EVENTS, EventSelection
from hostmanager_server.core.events import ExitStatus, Instant
from hostmanager_server.core.manager_status import ManagerState, ManagerStatus
from hostmanager_server.core.model import Exit
from hostmanager_server.state.event_archive import EventArchive
from hostmanager_server.state.event_history import EventHistory
from hostmanager_server.state.event_segments import EventLimits, SegmentWriter, segments_in
from hostmanager_server.state.event_writer import EventWriter
from hostmanager_server.state.store import Store

from tests.waiting import wait_until

STOPPED = ManagerStatus(ManagerState.STOPPED, "host", "site.yaml")
NOW = 1_700_000_000.0


class Life:
    """One life of a daemon, as far as its events go."""

    def __init__(self, folder: Path, epoch: str, limits: EventLimits, kept: int) -> None:
        self.archive = EventArchive(folder, epoch)
        self.store = Store(epoch, STOPPED, events_kept=kept, last_sequence=self.archive.last)
        self.history = EventHistory(self.store, self.archive)
        self.problems: list[str] = []
        self.writer = EventWriter(self.store, self.archive, limits, retry=0.01)
        self.writer.listen(self.problems.append)
        self.writer.start()

    def log(self, *entries: LogEntry) -> None:
        self.store.publish(entries=entries)

    def messages(self, selection: EventSelection = ALL_EVENTS) -> list[str]:
        found = self.history.after(0, selection, 10**6).events
        return [each.entry.message for each in found]

    def written(self) -> None:
        """Wait until the files have every event."""
        last = self.store.last_sequence
        wait_until(lambda: EventArchive(self.archive.folder, "").last == last, "all events in the files")


@contextmanager
def life(
    folder: Path, epoch: str = "e1", *, limits: EventLimits | None = None, kept: int = 100, dies: bool = False
) -> Iterator[Life]:
    """Run a life; `dies`: without the orderly end."""
    one = Life(folder, epoch, limits or EventLimits(), kept)
    try:
        yield one
        if dies:
            one.written()
    finally:
        if dies:
            one.writer._written = one.archive.last = one.store.last_sequence  # no mark of an orderly end
        one.writer.close()


def entry(message: str, at: float = NOW, **more: object) -> LogEntry:
    values = {"kind": EntryKind.EXIT, "reason": "Exited", "instance_id": "a", **more}
    return LogEntry(message=message, at=Instant(1.0, at), **values)  # type: ignore[arg-type]  # the test chooses


def test_a_later_daemon_reads_all_events_and_counts_on(tmp_path: Path) -> None:
    end = Exit(ExitStatus(code=3), Instant(1.0, NOW), False, "ended", Instant(0.5, NOW - 2), 42, "boom")
    with life(tmp_path / "events") as first:
        first.log(entry("one", exit=end, severity=Severity.WARNING), entry("two", instance_id=""))
    with life(tmp_path / "events", "e2") as second:
        second.log(entry("three"))
        assert second.messages() == ["one", "two", "three"]
        events = second.history.after(0, ALL_EVENTS, 2).events
        assert [each.sequence for each in events] == [1, 2]
        assert events[0].entry.exit == end
        assert events[0].entry.severity is Severity.WARNING
        assert events[0].revision == 0, "revisions of different epochs cannot be compared"
        assert second.store.last_sequence == 3


def test_events_beyond_the_memory_come_from_the_files(tmp_path: Path) -> None:
    with life(tmp_path / "events", kept=2, limits=EventLimits(segment_events=3)) as one:
        for number in range(10):
            one.log(entry(str(number)))
            one.written()
        assert one.messages() == [str(number) for number in range(10)]
        assert [each.entry.message for each in one.history.newest(ALL_EVENTS)] == [
            str(n) for n in range(9, -1, -1)
        ]
        page = one.history.after(4, ALL_EVENTS, 3)
        assert ([each.sequence for each in page.events], page.missed, page.last) == ([5, 6, 7], 0, 7)


def test_a_selection_holds_in_memory_and_in_files(tmp_path: Path) -> None:
    limits = EventLimits(segment_events=2)
    with life(tmp_path / "events", kept=3, limits=limits) as one:
        one.log(entry("old", NOW - 100, instance_id="b"), entry("up", reason="Up", instance_id='q"'))
        one.written()
        one.log(
            entry("bad", severity=Severity.ERROR), entry("worse", severity=Severity.WARNING, instance_id="b")
        )
        one.written()
        one.log(entry('the text "r":"Up" is no reason'), entry("late", NOW + 100, instance_id="b"))
        one.written()
        assert one.messages(EventSelection(instance_ids=frozenset({"b"}))) == ["old", "worse", "late"]
        assert one.messages(EventSelection(instance_ids=frozenset({'q"'}))) == ["up"]
        assert one.messages(EventSelection(reasons=frozenset({"Up"}))) == ["up"]
        assert one.messages(EventSelection(min_severity=Severity.WARNING)) == ["bad", "worse"]
        assert one.messages(EventSelection(since=NOW, until=NOW + 100)) == [
            "up", "bad", "worse", 'the text "r":"Up" is no reason',
        ]  # fmt: skip
        assert one.history.before_newest(2, EventSelection(instance_ids=frozenset({"b"}))) == 3
        assert one.history.before_newest(9, EventSelection(reasons=frozenset({"None"}))) == 6


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace(b"two", b"t\0o\xff"),
        lambda text: text.replace(b'"k":"exit","s":"info","r":"Exited","m":"two"', b'"k":"nonsense"'),
        lambda text: text.replace(b'"t":', b'"t":"x",', 2).replace(b'"t":"x",', b'"t":', 1),
    ],
)
def test_a_damaged_line_costs_only_its_event(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    with life(tmp_path / "events") as first:
        first.log(entry("one"), entry("two"), entry("three"))
    (segment,) = segments_in(tmp_path / "events")
    text = segment.path.read_bytes()
    assert damage(text) != text
    segment.path.write_bytes(damage(text))
    with life(tmp_path / "events", "e2") as second:
        assert second.messages() == ["one", "three"]
        assert second.history.after(0, ALL_EVENTS, 10).missed == 1, "a gap is said"


def test_a_torn_line_costs_only_its_event(tmp_path: Path) -> None:
    with life(tmp_path / "events", dies=True) as first:
        first.log(entry("one"), entry("two"))
    (segment,) = segments_in(tmp_path / "events")
    os.truncate(segment.path, segment.path.stat().st_size - 5)
    with life(tmp_path / "events", "e2") as second:
        second.log(entry("three"))
    with life(tmp_path / "events", "e3") as third:
        assert third.messages() == ["one", "three"]
        assert [each.sequence for each in third.history.after(0, ALL_EVENTS, 10).events] == [1, 3]


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"nonsense\n" * 20_000])
def test_an_unreadable_file_costs_only_its_events(tmp_path: Path, content: bytes) -> None:
    limits = EventLimits(segment_events=2)
    with life(tmp_path / "events", limits=limits) as first:
        for number in range(4):
            first.log(entry(str(number)))
            first.written()
    segments_in(tmp_path / "events")[-1].path.write_bytes(content)
    with life(tmp_path / "events", "e2", limits=limits) as second:
        second.log(entry("next"))
        assert second.messages() == ["0", "1", "next"]
        assert second.store.last_sequence == 3


def test_the_start_reads_only_the_end_of_the_newest_file(tmp_path: Path) -> None:
    limits = EventLimits(segment_events=2)
    with life(tmp_path / "events", limits=limits) as first:
        for number in range(6):
            first.log(entry(str(number)))
            first.written()
    for segment in segments_in(tmp_path / "events")[:-1]:
        segment.path.unlink()
        os.mkfifo(segment.path)  # reading would block
    assert EventArchive(tmp_path / "events", "e2").last == 6


def test_old_events_go_in_whole_files(tmp_path: Path) -> None:
    limits = EventLimits(events=6, segment_events=2)
    with life(tmp_path / "events", kept=1, limits=limits) as one:
        for number in range(20):
            one.log(entry(str(number)))
            one.written()
        kept = one.messages()
        assert kept == [str(number) for number in range(20 - len(kept), 20)]
        assert 6 <= len(kept) <= 8
        assert one.history.after(0, ALL_EVENTS, 100).missed == 20 - len(kept)


def test_the_files_are_bounded_in_size_and_age(tmp_path: Path) -> None:
    folder = tmp_path / "events"
    writer = SegmentWriter(folder, EventLimits(size=1000, segment_size=200))
    for number in range(1, 50):
        writer.append([b"x" * 99 + b"\n"], b"", number, NOW)
    assert sum(each.path.stat().st_size for each in segments_in(folder)) <= 1200
    for segment in segments_in(folder):
        os.utime(segment.path, (NOW, NOW))
    writer.append([b"x" * 199 + b"\n"], b"", 50, NOW + 31 * 86_400)
    writer.close()
    assert [each.first for each in segments_in(folder)] == [50]


def test_a_full_disk_is_a_problem_until_there_is_room(tmp_path: Path) -> None:
    folder = tmp_path / "events"
    folder.write_text("in the way")
    with life(folder) as one:
        one.log(entry("one"))
        wait_until(lambda: len(one.problems) == 1, "the problem")
        assert f"cannot keep the events in {folder}" in one.problems[0]
        one.log(entry("two"))
        assert one.messages() == ["one", "two"], "the newest events stay in memory"
        folder.unlink()
        wait_until(lambda: one.problems[1:] == [""], "the end of the problem")
        one.written()
    with life(folder, "e2") as second:
        assert second.messages() == ["one", "two"]


def test_files_that_an_operator_removed_begin_afresh(tmp_path: Path) -> None:
    folder = tmp_path / "events"
    with life(folder, kept=1) as one:
        one.log(entry("one"))
        one.written()
        for segment in segments_in(folder):
            segment.path.unlink()
        one.log(entry("two"))
        one.written()
        assert one.messages() == ["two"]


def test_a_reader_of_an_earlier_epoch_continues(tmp_path: Path) -> None:
    folder = tmp_path / "events"
    with life(folder, "e1") as first:
        first.log(entry("1"), entry("2"))
    with life(folder, "e2") as second:
        second.log(entry("3"))
    with life(folder, "e3") as third:
        third.log(entry("4"))
        resumed = third.history.resume("e1", 1)
        assert resumed is not None
        assert (resumed.sequence, resumed.lossy) == (1, False)
        assert third.history.resume("e0", 1) is None


def test_a_reader_learns_that_a_daemon_died(tmp_path: Path) -> None:
    folder = tmp_path / "events"
    with life(folder, "e1", dies=True) as first:
        first.log(entry("1"), entry("2"))
    with life(folder, "e2") as second:
        second.log(entry("3"))
        beyond = second.history.resume("e1", 7)
        assert beyond is not None
        assert (beyond.sequence, beyond.lossy) == (2, True)
    with life(folder, "e3") as third:
        assert (old := third.history.resume("e1", 2)) is not None
        assert old.lossy
        assert (new := third.history.resume("e2", 3)) is not None
        assert not new.lossy


def test_the_publishing_thread_never_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    monkeypatch.setattr(SegmentWriter, "append", lambda *_: released.wait())
    with life(tmp_path / "events") as one:
        for number in range(1000):
            one.log(entry(str(number)))
        assert one.store.last_sequence == 1000
        released.set()


def test_the_files_belong_to_the_daemon_alone(tmp_path: Path) -> None:
    with life(tmp_path / "events") as one:
        one.log(entry("one"))
        one.written()
    (segment,) = segments_in(tmp_path / "events")
    assert (segment.path.stat().st_mode & 0o777, segment.path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_link_in_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.write_text("precious")
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / f"{1:016d}.jsonl").symlink_to(foreign)
    with life(tmp_path / "events") as one:
        one.log(entry("one"))
        wait_until(lambda: bool(one.problems), "the problem")
    assert foreign.read_text() == "precious"
