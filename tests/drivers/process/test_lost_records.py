"""Unreadable, removed or restored records: no second agent ever starts."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hostmanager_server.core.events import Exited, RunKey, StartFailed
from hostmanager_server.drivers.exec import gate
from hostmanager_server.drivers.process.records.directory import RecordDirectory

from tests.drivers.process.test_adoption import A, gone, launch_steady, record, runs

if TYPE_CHECKING:
    from tests.drivers.conftest import ProcessHarness

SECOND = RunKey("a", 2)


def aside(real: ProcessHarness) -> Path:
    return record(real).with_suffix(".corrupt")


def spoil(real: ProcessHarness, old: bytes = b'"version": 2', new: bytes = b'"version": 3') -> None:
    """Change the version of the record to a newer one, in place."""
    record(real).write_bytes(record(real).read_bytes().replace(old, new))


def refusals(real: ProcessHarness) -> list[str]:
    """Return the reasons of all refused launches of the second run."""
    real.driver.launch(SECOND, real.command("a", "sleep", "1000"))
    return [event.why for event in real.events if isinstance(event, StartFailed)]


def end(real: ProcessHarness, pid: int) -> None:
    """End the first run, so that the second can start."""
    os.kill(pid, signal.SIGKILL)
    real.wait_for(lambda: not runs(pid))
    real.events.clear()
    assert refusals(real) == []
    real.driver.stop(SECOND, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))


def set_aside(real: ProcessHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(real)
    real.replace_driver()
    assert real.driver.adopt({}) == []
    assert aside(real).exists()


def set_aside_and_removed(real: ProcessHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    set_aside(real, monkeypatch)
    aside(real).unlink()


def removed_before(real: ProcessHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(real)
    record(real).unlink()
    real.replace_driver()
    assert real.driver.adopt({}) == []


def removed_after(real: ProcessHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    set_aside_and_removed(real, monkeypatch)
    real.replace_driver()
    assert real.driver.adopt({}) == []


def kept_in_place(real: ProcessHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(source: str, target: str) -> None:
        raise OSError(errno.EROFS, "read-only")

    spoil(real)
    real.replace_driver()
    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", read_only)
        assert real.driver.adopt({}) == []
    assert record(real).exists()


def of_another_instance(real: ProcessHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(real, b'"instance_id": "a"', b'"instance_id": "b"')
    real.replace_driver()
    assert real.driver.adopt({}) == []


@pytest.mark.parametrize(
    "lose",
    [set_aside, set_aside_and_removed, removed_before, removed_after, kept_in_place, of_another_instance],
)
def test_a_run_with_an_unreadable_record_prevents_a_second_agent(
    real: ProcessHarness,
    lose: Callable[[ProcessHarness, pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pid = launch_steady(real)
    lose(real, monkeypatch)
    (why,) = refusals(real)
    assert f"pid {pid} of an earlier run with an unreadable record" in why
    assert runs(pid)
    end(real, pid)


def test_a_record_set_aside_is_adopted_by_a_daemon_that_can_read_it(
    real: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = launch_steady(real)
    set_aside(real, monkeypatch)
    aside(real).write_bytes(aside(real).read_bytes().replace(b'"version": 3', b'"version": 2'))
    real.replace_driver()
    assert [one.pid for one in real.driver.adopt({})] == [pid]
    assert record(real).exists()
    assert not aside(real).exists()
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))


def test_a_record_set_aside_of_an_ended_run_stays_aside(
    real: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = launch_steady(real)
    set_aside(real, monkeypatch)
    end(real, pid)
    real.replace_driver()
    assert real.driver.adopt({}) == []
    assert aside(real).exists()


def test_a_run_with_a_removed_record_is_adopted(
    real: ProcessHarness, caplog: pytest.LogCaptureFixture
) -> None:
    pid = launch_steady(real)
    content = record(real).read_bytes()
    shutil.rmtree(record(real).parent)
    real.replace_driver()
    assert [(one.run, one.pid, one.ready) for one in real.driver.adopt({})] == [(A, pid, True)]
    assert record(real).read_bytes() == content
    assert str(record(real)) in caplog.text
    # The next daemons adopt the run too.
    real.replace_driver()
    record(real).unlink()
    real.replace_driver()
    assert [one.pid for one in real.driver.adopt({})] == [pid]
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))
    real.replace_driver()
    assert real.driver.adopt({}) == []


def test_a_hidden_process_is_found_by_the_lock_of_a_removed_record(real: ProcessHarness) -> None:
    hides = f"setsid env --ignore-environment sh -c '(: > {real.settled('a')}; exec sleep 1000) &'; exit 5"
    real.driver.launch(A, real.command("a", "sh", "-c", hides))
    real.settle("a")
    real.wait_for(lambda: any(isinstance(event, Exited) for event in real.events))
    assert not gone(real)
    for removed in (True, False):  # the second time a record exists again, which is not the locked file
        if removed:
            record(real).unlink()
        real.replace_driver()
        (adopted,) = real.driver.adopt({})
        assert (adopted.run, adopted.ended is None, adopted.gone) == (A, False, False)
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))
    assert not record(real).exists()


def test_a_removed_record_of_an_ended_run_is_ignored(real: ProcessHarness) -> None:
    pid = launch_steady(real)
    opens = f"import os, sys; os.dup2(os.open(sys.argv[1], os.O_RDONLY), {gate.lock_descriptor()}); input()"
    reader = subprocess.Popen([sys.executable, "-c", opens, record(real)], stdin=subprocess.PIPE)
    try:
        real.wait_for(lambda: Path(f"/proc/{reader.pid}/fd/{gate.lock_descriptor()}").exists())
        record(real).unlink()
        os.kill(pid, signal.SIGKILL)
        real.wait_for(lambda: gone(real))
        real.replace_driver()
        assert real.driver.adopt({}) == []
        assert reader.poll() is None
    finally:
        reader.communicate(b"\n")


def test_a_record_from_a_backup_does_not_replace_that_of_a_living_run(real: ProcessHarness) -> None:
    launch_steady(real)
    old = record(real).read_bytes()
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))
    real.driver.launch(SECOND, real.command("a", "sleep", "1000"))
    pid = real.pid("a")
    record(real).unlink()
    record(real).write_bytes(old)
    real.replace_driver()
    assert [(one.run, one.pid, one.gone) for one in real.driver.adopt({})] == [(SECOND, pid, False)]
    assert record(real).read_bytes() != old
    real.events.clear()
    real.driver.stop(SECOND, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))


def test_the_flags_of_a_restored_record_count(real: ProcessHarness) -> None:
    launch_steady(real)
    spoil(real, b'"ready": 1', b'"ready": 0')
    record(real).unlink()
    records = RecordDirectory(record(real).parent)
    assert [one.ready for one in records.read()] == [False]
    records.mark("a", ready=True)
    assert [one.ready for one in RecordDirectory(record(real).parent).read()] == [True]
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))
