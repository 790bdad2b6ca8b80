"""What is stored is there after a crash; what cannot be read is set aside, never lost."""

from __future__ import annotations

import os
import queue
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pytest
from hostmanager_server.core.events import ExitStatus, Instant
from hostmanager_server.core.history import History
from hostmanager_server.core.manager_status import ManagerState
from hostmanager_server.core.model import Exit
from hostmanager_server.core.spec import Management, Target
from hostmanager_server.state import schema
from hostmanager_server.state.journal import Journal
from hostmanager_server.state.journal_contents import JournalContents
from hostmanager_server.state.rows import decode_history, encode_history
from hostmanager_server.state.schema import VERSION, JournalUnusableError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

BOOT = "boot-1"
HISTORY = History("Agent", Management.HOST, runs=3, fail_times=(Instant(5.0, 1e9),), finished=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def read(path: Path) -> JournalContents:
    journal = Journal(path, BOOT)
    recovered = journal.open()
    journal.close()
    return recovered


def test_a_new_journal_has_nothing_to_say(path: Path) -> None:
    assert read(path) == JournalContents()


def test_what_was_saved_is_there_for_the_next_daemon(path: Path) -> None:
    journal = Journal(path, BOOT)
    journal.open()
    journal.save(manager=ManagerState.RUNNING, targets={"a": Target.UP, "b": Target.UP}).result()
    journal.save(targets={"a": Target.DOWN}, forget=["b"]).result()
    journal.end()
    journal.close()
    assert read(path) == JournalContents(ManagerState.RUNNING, True, BOOT, {"a": Target.DOWN}, new=False)


def test_a_daemon_that_was_not_asked_to_end_counts_as_died(path: Path) -> None:
    journal = Journal(path, "boot-2")
    journal.open()
    journal.save(manager=ManagerState.RUNNING)
    journal.close()
    recovered = read(path)
    assert not recovered.ended
    assert recovered.boot_id == "boot-2"


def test_what_is_saved_while_it_ends_does_not_make_it_look_dead(path: Path) -> None:
    journal = Journal(path, BOOT)
    journal.open()
    journal.save(manager=ManagerState.RUNNING)
    journal.end()
    journal.save(manager=ManagerState.STOPPING)
    journal.close()
    assert read(path) == JournalContents(ManagerState.STOPPING, True, BOOT, new=False)


def test_a_daemon_that_never_began_leaves_no_trace(path: Path) -> None:
    journal = Journal(path, BOOT)
    journal.open()
    journal.save(manager=ManagerState.RUNNING, targets={"a": Target.DOWN})
    journal.end()
    journal.close()
    before = read(path)
    assert read(path) == before  # reading it is no beginning
    assert before.ended


def test_a_saved_target_survives_a_kill(path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from hostmanager_server.state.journal import Journal\n"
        "from hostmanager_server.core.spec import Target\n"
        "journal = Journal(pathlib.Path(sys.argv[1]), 'b')\n"
        "journal.open()\n"
        "journal.save(targets={'data1': Target.DOWN}).result()\n"
        "print('saved', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, path], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"saved\n"
        child.send_signal(signal.SIGKILL)
    recovered = read(path)
    assert recovered.targets == {"data1": Target.DOWN}
    assert not recovered.ended


def test_a_corrupt_file_is_set_aside_and_said(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_bytes(b"not a database at all" * 100)
    recovered = read(path)
    assert (recovered.targets, recovered.ended) == ({}, True)
    assert "not a database" in recovered.lost
    aside = list(path.parent.glob("*.corrupt"))
    assert [file.read_bytes()[:5] for file in aside] == [b"not a"]
    assert str(path) in caplog.text


def test_a_newer_file_is_set_aside(path: Path) -> None:
    read(path)
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version={VERSION + 1}")
    db.close()
    assert "newer version" in read(path).lost
    assert list(path.parent.glob("*.corrupt"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(sqlite3.OperationalError):
        Journal(tmp_path / "journal.sqlite", BOOT).open()


# What version 1 of the schema was made with, and a daemon of that version wrote.
VERSION_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE targets (instance_id TEXT PRIMARY KEY, target TEXT NOT NULL) WITHOUT ROWID;
PRAGMA user_version=1;
INSERT INTO meta VALUES ('ended', 'no'), ('boot_id', 'boot-1'), ('manager', 'running');
INSERT INTO targets VALUES ('a', 'down'), ('b', 'up');
"""


def test_a_file_of_version_1_is_migrated_where_it_is(path: Path) -> None:
    with sqlite3.connect(path) as old:
        old.execute("PRAGMA journal_mode=WAL")
        old.executescript(VERSION_1)
    old.close()
    expected = {"a": Target.DOWN, "b": Target.UP}
    journal = Journal(path, BOOT)
    assert journal.open() == JournalContents(ManagerState.RUNNING, False, BOOT, expected, new=False)
    journal.save(histories={"a": HISTORY}).result()
    journal.close()
    after = read(path)
    assert (after.targets, after.histories) == (expected, {"a": HISTORY})
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (VERSION,)
    db.close()
    assert list(path.parent.glob("*.corrupt*")) == []


def test_a_migration_that_fails_halfway_has_changed_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sqlite3.connect(path) as old:
        old.executescript(VERSION_1)
    old.close()
    broken = (*schema.STEPS[:1], ("CREATE TABLE history (x)", "CREATE TABLE meta (x)"))
    with monkeypatch.context() as patch:
        patch.setattr(schema, "STEPS", broken)
        with pytest.raises(JournalUnusableError):
            schema.connect(path)
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert db.execute("SELECT * FROM sqlite_master WHERE name = 'history'").fetchall() == []
    db.close()
    assert read(path).targets == {"a": Target.DOWN, "b": Target.UP}


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    match how:
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "random":
            path.write_bytes(random.Random(1).randbytes(len(content)))
        case "a page of it":
            path.write_bytes(content[:4096] + b"\xff" * 4096 + content[8192:])
        case "a table is missing":
            with sqlite3.connect(path) as db:
                db.execute("DROP TABLE targets")
            db.close()
        case "a target that is none":
            with sqlite3.connect(path) as db:
                db.execute("UPDATE targets SET target = 'sideways'")
            db.close()
        case "a history that is none":
            with sqlite3.connect(path) as db:
                db.execute("INSERT INTO history VALUES ('a', '{}')")
            db.close()


@pytest.mark.parametrize(
    "how",
    [
        "truncated",
        "random",
        "a page of it",
        "a table is missing",
        "a target that is none",
        "a history that is none",
    ],
)
def test_a_damaged_file_is_set_aside_and_begun_anew(path: Path, how: str) -> None:
    journal = Journal(path, BOOT)
    journal.open()
    journal.save(targets={f"instance-{n}": Target.UP for n in range(300)})
    journal.close()
    damage(path, how)
    damaged = path.read_bytes()
    journal = Journal(path, BOOT)
    recovered = journal.open()
    assert (recovered.targets, recovered.ended) == ({}, True)
    assert recovered.lost
    (aside,) = path.parent.glob("*.corrupt")
    assert aside.read_bytes() == damaged
    journal.save(targets={"a": Target.DOWN}).result()
    journal.close()
    assert read(path).targets == {"a": Target.DOWN}


@pytest.mark.parametrize("empty", [True, False])
def test_a_file_that_is_empty_or_missing_is_begun_anew(path: Path, empty: bool) -> None:
    if empty:
        path.touch()
    recovered = read(path)
    assert recovered == JournalContents()
    assert recovered.new
    assert list(path.parent.glob("*.corrupt*")) == []


moments = st.builds(Instant, st.floats(0, 1e9), st.floats(0, 1e10))
exits = st.builds(
    Exit,
    st.builds(ExitStatus, st.none() | st.integers(0, 255), st.none() | st.integers(1, 64)),
    moments,
    st.booleans(),
    st.text(),
    st.none() | moments,
    st.integers(0, 1 << 22),
)
counts = st.integers(0, 1 << 40)
histories = st.builds(
    History,
    agent_class=st.text(),
    management=st.sampled_from(Management),
    runs=counts,
    restarts=counts,
    failures=counts,
    fail_times=st.lists(moments, max_size=3).map(tuple),
    last_exit=st.none() | exits,
    start_error=st.text(),
    retry_at=st.none() | moments,
    finished=st.booleans(),
    started_once=st.booleans(),
    restart_of=st.integers(0, 10**6),
)


@given(histories)
def test_a_history_is_read_as_it_was_written(history: History) -> None:
    assert decode_history(encode_history(history)) == history


@pytest.mark.parametrize("text", ["", "1", "[]", "{}", '{"agent_class": "A", "management": "sideways"}'])
def test_what_is_no_history_is_no_more_than_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_history(text)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Somebody else holds the file: nothing can be written."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hostmanager_server.state.schema.BUSY", 0.0)


def test_what_could_not_be_written_is_written_with_the_next_change(path: Path) -> None:
    journal = Journal(path, BOOT)
    journal.open()
    journal.save(targets={"a": Target.UP, "b": Target.UP}).result()
    with held(path), pytest.raises(sqlite3.OperationalError):
        journal.save(targets={"a": Target.DOWN}).result()
    journal.save(targets={"c": Target.DOWN}, forget=["b"]).result()
    with sqlite3.connect(path) as other:  # before it is closed, which writes once more
        assert dict(other.execute("SELECT * FROM targets")) == {"a": "down", "c": "down"}
    other.close()
    journal.close()


def test_what_could_not_be_written_is_tried_again_by_itself(path: Path) -> None:
    told: queue.Queue[str] = queue.Queue()
    journal = Journal(path, BOOT, retry=0.01)
    journal.open()
    journal.listen(told.put)
    with held(path):
        with pytest.raises(sqlite3.OperationalError):
            journal.save(targets={"a": Target.DOWN}).result()
        assert str(path) in (problem := told.get(timeout=60))
        assert "SQLITE_BUSY" in problem
        with pytest.raises(sqlite3.OperationalError):  # which is another try, in vain
            journal.save().result()
    assert told.get(timeout=60) == ""
    assert told.empty()  # it is not told with each try
    journal.close()
    assert read(path).targets == {"a": Target.DOWN}


def test_waiting_for_the_disk_fails_as_long_as_something_is_not_on_it(path: Path) -> None:
    journal = Journal(path, BOOT)
    journal.open()
    with held(path):
        for targets in ({"a": Target.UP}, {}, {}):
            with pytest.raises(sqlite3.OperationalError):
                journal.save(targets=targets).result()
    journal.save().result()
    assert read(path).targets == {"a": Target.UP}
    journal.close()


@pytest.mark.parametrize("deed", ["removed", "replaced by garbage", "replaced by another"])
def test_a_file_that_is_taken_away_is_written_whole_again(path: Path, tmp_path: Path, deed: str) -> None:
    journal = Journal(path, BOOT, retry=0.01)
    journal.open()
    journal.save(manager=ManagerState.RUNNING, targets={"a": Target.DOWN, "b": Target.UP}).result()
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink()
    if deed == "replaced by garbage":
        path.write_bytes(b"garbage " * 1000)
    elif deed == "replaced by another":
        another = Journal(path, "another boot")
        another.open()
        another.save(targets={"x": Target.UP})
        another.close()
    with suppress(JournalUnusableError):  # the first try finds the garbage, and sets it aside
        journal.save(targets={"c": Target.DOWN}).result()
    journal.save().result()
    journal.close()
    expected = {"a": Target.DOWN, "b": Target.UP, "c": Target.DOWN}
    assert read(path) == JournalContents(ManagerState.RUNNING, False, BOOT, expected, new=False)


def test_a_disk_that_is_full_at_the_end_is_said(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(path, BOOT)
    journal.open()
    with held(path):
        journal.save(targets={"a": Target.UP})
        journal.close()
    assert str(path) in caplog.text


changes = st.tuples(
    st.dictionaries(st.text(max_size=3), st.sampled_from(Target), max_size=4),
    st.lists(st.text(max_size=3), max_size=2),
)
fates = st.sampled_from(["stored", "stored", "fails", "crash"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(st.lists(st.tuples(changes, fates), max_size=8))
def test_what_was_acknowledged_is_read_back_whatever_fails_and_dies(
    steps: list[tuple[tuple[dict[str, Target], list[str]], str]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite"
        journal = Journal(path, BOOT)
        journal.open()
        asked: dict[str, Target] = {}
        acknowledged: dict[str, Target] = {}
        unwritten = False
        for (targets, forget), fate in steps:
            asked = {i: t for i, t in {**asked, **targets}.items() if i not in forget}
            if fate == "stored":
                journal.save(targets=targets, forget=forget).result()
                acknowledged, unwritten = asked, False
                continue
            with held(path):
                change = journal.save(targets=targets, forget=forget)
                unwritten = unwritten or bool(targets or forget)
                with pytest.raises(sqlite3.OperationalError) if unwritten else nullcontext():
                    change.result()
                if fate == "crash":
                    journal.close()
            if fate == "crash":
                journal = Journal(path, BOOT)
                recovered = journal.open()
                assert recovered.targets == acknowledged
                asked, unwritten = acknowledged, False
        with held(path):
            journal.close()
        assert read(path).targets == acknowledged
