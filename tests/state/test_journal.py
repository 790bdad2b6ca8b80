"""The journal: durability over crashes, damaged files, failed writes and migrations."""

from __future__ import annotations

import json
import os
import queue
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hostmanager_server.core.events import ExitStatus, Instant
from hostmanager_server.core.history import History
from hostmanager_server.core.manager_status import ManagerState
from hostmanager_server.core.model import Exit, Outcome
from hostmanager_server.core.origin import Origin, OriginKind, Requester, RequestOrigins
from hostmanager_server.core.spec import Management, Target
from hostmanager_server.state import schema
from hostmanager_server.state.journal import Journal
from hostmanager_server.state.journal_contents import JournalContents
from hostmanager_server.state.rows import Rows, decode_history, encode_history, read_rows
from hostmanager_server.state.schema import VERSION, JournalUnusableError, Table, connect
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

BOOT = "boot-1"
HISTORY = History("Agent", Management.HOST, runs=3, fail_times=(Instant(5.0, 1e9),), outcome=Outcome.FAILED)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a journal that does not exist yet."""
    return tmp_path / "journal.sqlite"


def read(path: Path) -> JournalContents:
    journal = Journal(path, BOOT)
    recovered = journal.open()
    journal.close()
    return recovered


def test_a_new_journal_is_empty(path: Path) -> None:
    assert read(path) == JournalContents()


def test_the_next_daemon_reads_saved_changes(path: Path) -> None:
    journal = Journal(path, BOOT)
    journal.open()
    journal.save(manager=ManagerState.RUNNING, targets={"a": Target.UP, "b": Target.UP}).result()
    journal.save(targets={"a": Target.DOWN}, forget=["b"]).result()
    journal.end()
    journal.close()
    assert read(path) == JournalContents(ManagerState.RUNNING, True, BOOT, {"a": Target.DOWN}, new=False)


def test_the_origins_of_targets_are_kept_with_them(path: Path) -> None:
    who = Requester("ada", "hostmanager down", 42, 1000, verified=True, peer="unix")
    swap = Origin(OriginKind.CALL, Instant(1.0, 2.0), "valve swap", who)
    origins = RequestOrigins(swap, Origin(OriginKind.DEPENDENCY, Instant(3.0, 4.0), detail="hub"))
    journal = Journal(path, BOOT)
    journal.open()
    targets = {"a": Target.DOWN, "b": Target.UP}
    journal.save(targets=targets, origins={"a": origins, "b": RequestOrigins(swap)}).result()
    journal.save(forget=["b"], origins={"b": None}).result()
    journal.close()
    assert read(path).origins == {"a": origins}
    journal = Journal(path, BOOT)
    journal.open()
    journal.discard(targets=True, histories=False)
    journal.save(targets={"c": Target.UP}).result()
    journal.close()
    assert read(path).origins == {}


def test_an_origin_that_cannot_be_read_loses_no_target(path: Path) -> None:
    journal = Journal(path, BOOT)
    journal.open()
    journal.save(targets={"a": Target.DOWN}).result()
    journal.close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("""INSERT INTO meta VALUES ('origin/a', '{"target": 7}')""")
        db.commit()
    assert (read(path).targets, read(path).origins) == ({"a": Target.DOWN}, {})


def test_a_daemon_that_was_not_requested_to_end_counts_as_died(path: Path) -> None:
    journal = Journal(path, "boot-2")
    journal.open()
    journal.save(manager=ManagerState.RUNNING)
    journal.close()
    recovered = read(path)
    assert not recovered.ended
    assert recovered.boot_id == "boot-2"


def test_saves_during_the_end_leave_the_end_orderly(path: Path) -> None:
    journal = Journal(path, BOOT)
    journal.open()
    journal.save(manager=ManagerState.RUNNING)
    journal.end()
    journal.save(manager=ManagerState.STOPPING)
    journal.close()
    assert read(path) == JournalContents(ManagerState.STOPPING, True, BOOT, new=False)


def test_opening_without_a_save_leaves_the_contents_unchanged(path: Path) -> None:
    journal = Journal(path, BOOT)
    journal.open()
    journal.save(manager=ManagerState.RUNNING, targets={"a": Target.DOWN})
    journal.end()
    journal.close()
    before = read(path)
    assert read(path) == before  # opening and closing changes nothing
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


def test_a_corrupt_file_is_set_aside_and_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
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


# The schema of version 1, and rows that a daemon of that version wrote.
VERSION_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE targets (instance_id TEXT PRIMARY KEY, target TEXT NOT NULL) WITHOUT ROWID;
PRAGMA user_version=1;
INSERT INTO meta VALUES ('ended', 'no'), ('boot_id', 'boot-1'), ('manager', 'running');
INSERT INTO targets VALUES ('a', 'down'), ('b', 'up');
"""


def test_a_file_of_version_1_is_migrated_in_place(path: Path) -> None:
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


def damage(path: Path, damaged_part: str) -> None:
    content = path.read_bytes()
    match damaged_part:
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
        case "an unknown target":
            with sqlite3.connect(path) as db:
                db.execute("UPDATE targets SET target = 'sideways'")
            db.close()
        case "an incomplete history":
            with sqlite3.connect(path) as db:
                db.execute("INSERT INTO history VALUES ('a', '{}')")
            db.close()


@pytest.mark.parametrize(
    "damaged_part",
    [
        "truncated",
        "random",
        "a page of it",
        "a table is missing",
        "an unknown target",
        "an incomplete history",
    ],
)
def test_a_damaged_file_is_set_aside_and_replaced_by_an_empty_one(path: Path, damaged_part: str) -> None:
    journal = Journal(path, BOOT)
    journal.open()
    journal.save(targets={f"instance-{n}": Target.UP for n in range(300)})
    journal.close()
    damage(path, damaged_part)
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
def test_an_empty_or_missing_file_is_a_new_journal(path: Path, *, empty: bool) -> None:
    if empty:
        path.touch()
    recovered = read(path)
    assert recovered == JournalContents()
    assert recovered.new
    assert list(path.parent.glob("*.corrupt*")) == []


moments = st.builds(Instant, st.floats(0, 1e9), st.floats(0, 1e10))
exits = st.builds(
    Exit,
    st.builds(
        ExitStatus,
        st.none() | st.integers(0, 255),
        st.none() | st.integers(1, 64),
        st.booleans(),
        st.booleans(),
        st.text(),
    ),
    moments,
    st.booleans(),
    st.text(),
    st.none() | moments,
    st.integers(0, 1 << 22),
    st.text(),
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
    outcome=st.sampled_from([None, *Outcome]),
    started_once=st.booleans(),
    restart_of=st.integers(0, 10**6),
)


@given(histories)
def test_a_decoded_history_equals_the_encoded_one(history: History) -> None:
    assert decode_history(encode_history(history)) == history


def test_an_exit_of_an_older_version_has_no_output() -> None:
    exit_ = Exit(ExitStatus(code=1), Instant(1.0, 2.0), False, "ended with code 1", last_output="lost")
    history = History("A", Management.HOST, last_exit=exit_)
    record = json.loads(encode_history(history))
    for name in ("last_output", "core_dumped", "limit"):
        del record["last_exit"][name]
    assert decode_history(json.dumps(record)).last_exit == replace(exit_, last_output="")


@pytest.mark.parametrize("text", ["", "1", "[]", "{}", '{"agent_class": "A", "management": "sideways"}'])
def test_a_text_that_is_no_history_raises_only_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_history(text)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock the file by another connection, so that every write fails."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@pytest.fixture(autouse=True)
def fail_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make writes to a locked file fail at once."""
    monkeypatch.setattr("hostmanager_server.state.schema.BUSY", 0.0)


def test_a_failed_write_is_repeated_with_the_next_change(path: Path) -> None:
    journal = Journal(path, BOOT)
    journal.open()
    journal.save(targets={"a": Target.UP, "b": Target.UP}).result()
    with locked(path), pytest.raises(sqlite3.OperationalError):
        journal.save(targets={"a": Target.DOWN}).result()
    journal.save(targets={"c": Target.DOWN}, forget=["b"]).result()
    with sqlite3.connect(path) as other:  # before `close`, which writes once more
        assert dict(other.execute("SELECT * FROM targets")) == {"a": "down", "c": "down"}
    other.close()
    journal.close()


def test_a_failed_write_is_retried_without_a_new_change(path: Path) -> None:
    problems: queue.Queue[str] = queue.Queue()
    journal = Journal(path, BOOT, retry=0.01)
    journal.open()
    journal.listen(problems.put)
    with locked(path):
        with pytest.raises(sqlite3.OperationalError):
            journal.save(targets={"a": Target.DOWN}).result()
        assert str(path) in (problem := problems.get(timeout=60))
        assert "SQLITE_BUSY" in problem
        with pytest.raises(sqlite3.OperationalError):  # a second failed attempt
            journal.save().result()
    assert problems.get(timeout=60) == ""
    assert problems.empty()  # one notification per problem, not per attempt
    journal.close()
    assert read(path).targets == {"a": Target.DOWN}


def test_every_save_fails_while_an_earlier_change_is_not_on_disk(path: Path) -> None:
    journal = Journal(path, BOOT)
    journal.open()
    with locked(path):
        for targets in ({"a": Target.UP}, {}, {}):
            with pytest.raises(sqlite3.OperationalError):
                journal.save(targets=targets).result()
    journal.save().result()
    assert read(path).targets == {"a": Target.UP}
    journal.close()


@pytest.mark.parametrize("change", ["removed", "replaced by garbage", "replaced by another"])
def test_a_removed_or_replaced_file_is_written_completely_again(
    path: Path, tmp_path: Path, change: str
) -> None:
    journal = Journal(path, BOOT, retry=0.01)
    journal.open()
    journal.save(manager=ManagerState.RUNNING, targets={"a": Target.DOWN, "b": Target.UP}).result()
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink()
    if change == "replaced by garbage":
        path.write_bytes(b"garbage " * 1000)
    elif change == "replaced by another":
        another = Journal(path, "another boot")
        another.open()
        another.save(targets={"x": Target.UP})
        another.close()
    with suppress(JournalUnusableError):  # the first attempt sets the garbage aside
        journal.save(targets={"c": Target.DOWN}).result()
    journal.save().result()
    journal.close()
    expected = {"a": Target.DOWN, "b": Target.UP, "c": Target.DOWN}
    assert read(path) == JournalContents(ManagerState.RUNNING, False, BOOT, expected, new=False)


def test_a_failed_write_at_the_end_is_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(path, BOOT)
    journal.open()
    with locked(path):
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
def test_acknowledged_targets_survive_any_sequence_of_failures_and_crashes(
    steps: list[tuple[tuple[dict[str, Target], list[str]], str]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite"
        journal = Journal(path, BOOT)
        journal.open()
        requested: dict[str, Target] = {}
        acknowledged: dict[str, Target] = {}
        unwritten = False
        for (targets, forget), fate in steps:
            requested = {i: t for i, t in {**requested, **targets}.items() if i not in forget}
            if fate == "stored":
                journal.save(targets=targets, forget=forget).result()
                acknowledged, unwritten = requested, False
                continue
            with locked(path):
                future = journal.save(targets=targets, forget=forget)
                unwritten = unwritten or bool(targets or forget)
                with pytest.raises(sqlite3.OperationalError) if unwritten else nullcontext():
                    future.result()
                if fate == "crash":
                    journal.close()
            if fate == "crash":
                journal = Journal(path, BOOT)
                recovered = journal.open()
                assert recovered.targets == acknowledged
                requested, unwritten = acknowledged, False
        with locked(path):
            journal.close()
        assert read(path).targets == acknowledged


def test_any_number_of_rows_is_written_and_deleted(tmp_path: Path) -> None:
    targets: dict[str, str | None] = {f"i{number}": "up" for number in range(1001)}
    db = connect(tmp_path / "journal.sqlite")
    Rows({Table.TARGETS: targets}).write(db)
    assert read_rows(db).of[Table.TARGETS] == targets
    kept = {instance_id: None if number else "down" for number, instance_id in enumerate(targets)}
    Rows({Table.TARGETS: kept}).write(db)
    assert read_rows(db).of[Table.TARGETS] == {"i0": "down"}
    db.close()
