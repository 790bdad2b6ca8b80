"""The start of a child by `spawn.c`: what the child inherits, and what a failure leaves."""

from __future__ import annotations

import fcntl
import os
import re
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostmanager_server.linux.spawning import (
    Heritage,
    Note,
    Program,
    ResourceLimit,
    Spawner,
    SpawnError,
    SpawnUnavailableError,
    Step,
)

from tests.waiting import wait_until

SLEEP = "/bin/sleep"


@pytest.fixture
def spawner() -> Iterator[Spawner]:
    try:
        spawner = Spawner()
    except SpawnUnavailableError as error:
        pytest.skip(str(error))
    yield spawner
    spawner.close()


def end(pid: int, pidfd: int) -> None:
    os.close(pidfd)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def sleeper(spawner: Spawner, **fields: object) -> tuple[int, int]:
    program = Program(path=SLEEP, argv=["sleep", "1000"])
    return spawner.spawn(program, Heritage(output=spawner.null, **fields))  # type: ignore[arg-type]  # any


def test_a_child_inherits_no_signals_and_no_descriptors_but_its_own(spawner: Spawner, tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    lock = os.open(tmp_path / "lock", os.O_RDONLY | os.O_CLOEXEC)
    ignored = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        pid, pidfd = sleeper(spawner, lock=lock, lock_number=250)
    finally:
        signal.signal(signal.SIGUSR1, ignored)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(lock)
    try:
        # The kernel lets the parent go on just before it closes descriptors at the exec.
        wait_until(lambda: set(os.listdir(f"/proc/{pid}/fd")) == {"0", "1", "2", "250"}, "only its own")
        status = Path(f"/proc/{pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert {int(fields[name], 16) for name in ("SigBlk", "SigIgn", "SigCgt")} == {0}
        assert os.getsid(pid) == pid
    finally:
        end(pid, pidfd)


def test_a_child_copies_no_descriptors_that_it_does_not_need(spawner: Spawner) -> None:
    many = [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(600)]
    try:
        pid, pidfd = sleeper(spawner)
    finally:
        for descriptor in many:
            os.close(descriptor)
    try:
        # The size of the table, a power of two.
        status = Path(f"/proc/{pid}/status").read_text()
        assert int(re.findall(r"FDSize:\t(\d+)", status)[0]) < len(many)
    finally:
        end(pid, pidfd)


def test_only_the_child_keeps_the_lock(spawner: Spawner, tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    lock = os.open(tmp_path / "lock", os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_EX)
    pid, pidfd = sleeper(spawner, lock=lock, lock_number=250)
    os.close(lock)
    again = os.open(tmp_path / "lock", os.O_RDONLY | os.O_CLOEXEC)
    with pytest.raises(BlockingIOError):
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    end(pid, pidfd)
    fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(again)


def test_a_child_notes_its_pid_and_has_its_limits(spawner: Spawner, tmp_path: Path) -> None:
    (tmp_path / "record").write_bytes(b"<" + b"." * 20 + b">")
    file = os.open(tmp_path / "record", os.O_WRONLY | os.O_CLOEXEC)
    note = Note(file, 1, b"pid is        ", 7)
    limits = [ResourceLimit(resource.RLIMIT_FSIZE, 0, 0), ResourceLimit(resource.RLIMIT_CORE, 5, 6)]
    pid, pidfd = sleeper(spawner, note=note, limits=limits)
    try:
        assert (tmp_path / "record").read_bytes() == b"<pid is %7d......>" % pid
        assert resource.prlimit(pid, resource.RLIMIT_CORE) == (5, 6)
        assert resource.prlimit(pid, resource.RLIMIT_FSIZE) == (0, 0)
    finally:
        end(pid, pidfd)
        os.close(file)


@pytest.mark.parametrize(
    ("change", "step"),
    [
        ({"path": "/nowhere"}, Step.EXEC),
        ({"working_dir": "/nowhere"}, Step.DIRECTORY),
        ({"limits": [ResourceLimit(resource.RLIMIT_CORE, 0, 0), ResourceLimit(1000, 0, 0)]}, Step.LIMIT),
        ({"lock_number": 1 << 30, "lock": 0}, Step.DESCRIPTOR),
        ({"note": Note(0, 0, b"x" * 200, 7)}, Step.NOTE),
    ],
)
def test_a_failed_start_tells_its_step_and_leaves_nothing(
    spawner: Spawner, change: dict[str, object], step: Step
) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    texts: dict[str, object] = {"path": SLEEP, "argv": ["sleep", "1000"]}
    texts |= {name: value for name, value in change.items() if name in ("path", "working_dir")}
    with pytest.raises(SpawnError) as failed:
        spawner.spawn(
            Program(**texts),  # type: ignore[arg-type]  # any
            Heritage(output=spawner.null, **{n: v for n, v in change.items() if n not in texts}),  # type: ignore[arg-type]  # any
        )
    assert failed.value.step is step
    assert failed.value.limit == (1 if step is Step.LIMIT else 0)
    assert sorted(os.listdir("/proc/self/fd")) == before
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    assert all(Path(f"/proc/{pid}/comm").read_text().strip() != "sleep" for pid in children.split())


def test_without_the_library_a_spawner_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(SpawnUnavailableError):
        Spawner(tmp_path / "missing.so")


@pytest.mark.parametrize("which", range(4))
def test_the_number_of_the_lock_may_be_one_of_the_spawner_s_own(
    spawner: Spawner, tmp_path: Path, which: int
) -> None:
    # A daemon gets a pidfd for each agent from systemd, so its own descriptors may have any numbers.
    number = spawner._numbers[which]
    record = tmp_path / "record"
    record.write_bytes(b"." * 12)
    lock = os.open(record, os.O_RDONLY | os.O_CLOEXEC)
    file = os.open(record, os.O_WRONLY | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_EX)
    note = Note(file, 0, b"pid " + b" " * 7, 7)
    try:
        pid, pidfd = sleeper(spawner, lock=lock, lock_number=number, note=note)
    finally:
        os.close(file)
        os.close(lock)
    try:
        wait_until(lambda: set(os.listdir(f"/proc/{pid}/fd")) == {"0", "1", "2", str(number)}, "only its own")
        assert record.read_bytes() == f"pid {pid:7}.".encode()
        assert Path(f"/proc/{pid}/fd/{number}").samefile(record)
        assert b"FLOCK" in Path(f"/proc/{pid}/fdinfo/{number}").read_bytes()
    finally:
        end(pid, pidfd)
