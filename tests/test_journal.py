"""What is stored is there after a crash; what cannot be read is set aside, never lost."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hostmanager_server.core.manager import ManagerState
from hostmanager_server.core.spec import Target
from hostmanager_server.journal import VERSION, Journal, Recovered
from hypothesis import given
from hypothesis import strategies as st

BOOT = "boot-1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def read(path: Path) -> Recovered:
    journal = Journal(path, BOOT)
    recovered = journal.open()
    journal.close()
    return recovered


def test_a_new_journal_has_nothing_to_say(path: Path) -> None:
    assert read(path) == Recovered()


def test_what_was_saved_is_there_for_the_next_daemon(path: Path) -> None:
    journal = Journal(path, BOOT)
    journal.open()
    journal.save(manager=ManagerState.RUNNING, targets={"a": Target.UP, "b": Target.UP}).result()
    journal.save(targets={"a": Target.DOWN}, forget=["b"]).result()
    journal.end()
    journal.close()
    assert read(path) == Recovered(ManagerState.RUNNING, True, BOOT, {"a": Target.DOWN})


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
    assert read(path) == Recovered(ManagerState.STOPPING, True, BOOT, {})


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
        "from hostmanager_server.journal import Journal\n"
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
    assert read(path) == Recovered()
    aside = list(path.parent.glob("*.corrupt"))
    assert [file.read_bytes()[:5] for file in aside] == [b"not a"]
    assert str(path) in caplog.text


def test_a_newer_file_is_set_aside(path: Path) -> None:
    read(path)
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version={VERSION + 1}")
    db.close()
    assert read(path) == Recovered()
    assert list(path.parent.glob("*.corrupt"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(sqlite3.OperationalError):
        Journal(tmp_path / "journal.sqlite", BOOT).open()


def test_a_save_that_fails_says_so(path: Path) -> None:
    journal = Journal(path, BOOT)
    journal.open()
    with sqlite3.connect(path) as other:
        other.execute("DROP TABLE targets")
    other.close()
    with pytest.raises(sqlite3.OperationalError):
        journal.save(targets={"a": Target.UP}).result()
    journal.close()


changes = st.tuples(
    st.dictionaries(st.text(max_size=3), st.sampled_from(Target), max_size=4),
    st.lists(st.text(max_size=3), max_size=2),
)


@given(st.lists(changes, max_size=6))
def test_the_journal_adds_up(steps: list[tuple[dict[str, Target], list[str]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite"
        journal = Journal(path, BOOT)
        journal.open()
        expected: dict[str, Target] = {}
        for targets, forget in steps:
            journal.save(targets=targets, forget=forget)
            expected.update(targets)
            for instance_id in forget:
                expected.pop(instance_id, None)
        journal.close()
        assert read(path).targets == expected
