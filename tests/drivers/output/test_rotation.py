"""Rotation of output files while a process writes to them."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hostmanager_server.core.spec import LogPolicy
from hostmanager_server.drivers.output.archives import Archives
from hostmanager_server.drivers.output.log_directory import LogDirectory
from hostmanager_server.drivers.output.output_files import OutputFiles, file_stem
from hostmanager_server.drivers.output.stream import OutputStream
from hostmanager_server.linux import fallocate
from hostmanager_server.linux.fallocate import UnsupportedError
from hypothesis import given
from hypothesis import strategies as st

from tests.waiting import wait_until

DEADLINE = 30.0
LINES = 200_000
WRITER = (
    "import os\nfor i in range(0, {0}, 5): os.write(1, b''.join(b'line %d\\n' % j for j in range(i, i + 5)))"
)


def archives(live: Path) -> list[Path]:
    """Return the archives, oldest first."""
    found = [path for path in live.parent.glob(f"{live.name}.*") if path.suffix[1:].isdecimal()]
    return sorted(found, key=lambda path: -int(path.suffix[1:]))


def live_bytes(live: Path) -> bytes:
    with live.open("rb") as file:
        file.seek(fallocate.data_start(file.fileno()))
        return file.read()


def everything(live: Path) -> bytes:
    return b"".join(path.read_bytes() for path in archives(live)) + live_bytes(live)


def numbered(lines: int) -> bytes:
    return b"".join(b"line %d\n" % number for number in range(lines))


@pytest.fixture(params=["disk", "memory"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Create directories on two file systems: one may collapse ranges, tmpfs only punches holes."""
    if request.param == "disk":
        yield tmp_path
        return
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no tmpfs at /dev/shm")
    path = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def outputs(directory: Path) -> Iterator[OutputFiles]:
    """Create the output files in the directory."""
    files = OutputFiles(directory)
    yield files
    files.close()


def write(outputs: OutputFiles, policy: LogPolicy, data: bytes) -> None:
    fd = outputs.open_for_append("a", policy)
    with os.fdopen(fd, "wb") as file:
        file.write(data)


@pytest.mark.parametrize("size", [64 * 1024, 1000 * 1000])
def test_every_line_of_a_fast_writer_is_kept_once_and_in_order(outputs: OutputFiles, size: int) -> None:
    policy = LogPolicy(size=size, keep=1000)
    fd = outputs.open_for_append("a", policy)
    writer = subprocess.Popen([sys.executable, "-c", WRITER.format(LINES)], stdout=fd)
    os.close(fd)
    assert writer.wait(DEADLINE) == 0
    live = outputs.path("a", policy)
    wait_until(lambda: len(live_bytes(live)) <= size, "all but one size archived")
    outputs.close()
    assert everything(live) == numbered(LINES)
    assert all(path.stat().st_size <= size for path in archives(live))


def test_keep_limits_the_archives_to_the_newest(outputs: OutputFiles) -> None:
    policy = LogPolicy(size=64 * 1024, keep=3)
    write(outputs, policy, numbered(LINES))
    live = outputs.path("a", policy)
    wait_until(lambda: len(archives(live)) == 3 and len(live_bytes(live)) <= policy.size, "rotated")
    for start in range(3):
        write(outputs, policy, numbered(10_000 + start))
    wait_until(lambda: len(live_bytes(live)) <= policy.size, "rotated again")
    outputs.close()
    kept = everything(live)
    assert [path.suffix for path in archives(live)] == [".3", ".2", ".1"]
    assert len(kept) > 3 * 60 * 1024
    assert (numbered(LINES) + b"".join(numbered(10_000 + start) for start in range(3))).endswith(kept)


def test_keep_zero_keeps_no_archive(outputs: OutputFiles) -> None:
    policy = LogPolicy(size=64 * 1024, keep=0)
    write(outputs, policy, numbered(50_000))
    live = outputs.path("a", policy)
    wait_until(lambda: len(live_bytes(live)) <= policy.size, "rotated")
    assert not archives(live)
    assert numbered(50_000).endswith(live_bytes(live))


def test_a_smaller_keep_drops_the_archives_beyond_it(outputs: OutputFiles) -> None:
    write(outputs, LogPolicy(size=64 * 1024, keep=10), numbered(50_000))
    live = outputs.path("a", LogPolicy())
    wait_until(lambda: len(archives(live)) > 5, "rotated")
    outputs.resume("a", LogPolicy(size=64 * 1024, keep=2))
    wait_until(lambda: [path.suffix for path in archives(live)] == [".2", ".1"], "pruned")


def test_numbered_files_of_an_agent_cost_a_bounded_amount_of_work(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 20_001):
        (directory / f"a.log.{number}").write_bytes(b"%d\n" % number)
    looked_at: list[str] = []
    status = LogDirectory.status

    def count(folder: LogDirectory, name: str) -> os.stat_result:
        looked_at.append(name)
        return status(folder, name)

    monkeypatch.setattr(LogDirectory, "status", count)
    known = Archives(directory / "a.log")
    with LogDirectory(str(directory)) as folder:
        known.load(folder)
        assert len(looked_at) <= 1001
        assert known.read_before(folder, 0, 4) == b"1\n"
        assert known.read_before(folder, -2, 4) == b"2\n"
        known.drop(folder, 2)
        assert known.read(folder, -100, 10) == (-4, b"2\n")
    assert not (directory / "a.log.1000").exists()
    assert (directory / "a.log.20000").exists()


def test_planted_unfinished_archives_are_left_out(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A daemon leaves one; an agent that may write the directory creates any number."""
    for stop in range(1, 301):
        (directory / f"a.log.cut.{stop}").write_bytes(b"x\n")
    known = Archives(directory / "a.log")
    with LogDirectory(str(directory)) as folder:
        known.load(folder)
    archives = [path for path in directory.iterdir() if path.name.removeprefix("a.log.").isdecimal()]
    assert 1 <= len(archives) <= 4
    assert f"{300 - len(archives)} unfinished archives are left out" in caplog.text


def test_an_unfinished_copy_is_dropped_and_a_cut_copy_is_recovered(directory: Path) -> None:
    live = directory / "a.log"
    live.write_bytes(b"three\n")
    (directory / "a.log.1").write_bytes(b"one\n")
    # An operator replaced the live file since, so only the copy still has these bytes.
    (directory / "a.log.cut.4096").write_bytes(b"two\n")
    (directory / "a.log.copying").write_bytes(b"thr")
    outputs = OutputFiles(directory)
    outputs.resume("a", LogPolicy())
    wait_until(lambda: not (directory / "a.log.cut.4096").exists(), "the recovery")
    outputs.close()
    assert everything(live) == b"one\ntwo\nthree\n"
    assert sorted(path.name for path in directory.glob("*.log*")) == [
        "a.log",
        "a.log.1",
        "a.log.2",
        "a.log.times",
    ]


@pytest.mark.parametrize(
    "step",
    [
        "output.stream.os.fdatasync",
        "output.stream.punch_head",
        "output.archives.Archives.end_cut",
        "output.archives.Archives._make_room",
        "output.stream.collapse_head",
    ],
)
def test_a_death_at_any_step_of_a_rotation_loses_and_repeats_no_byte(
    directory: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    live = directory / "a.log"
    live.write_bytes(numbered(3_000))

    class Death(BaseException):
        pass

    def die(*_: object) -> None:
        raise Death

    first = OutputStream(live)
    with monkeypatch.context() as patch:
        # A dead daemon runs no cleanup, so the copy stays.
        patch.setattr(LogDirectory, "remove", lambda *_: None)
        patch.setattr(f"hostmanager_server.drivers.{step}", die)
        with pytest.raises(Death):
            first.rotate(8192, 100)
    second = OutputStream(live)
    assert second.rotate(8192, 100)
    assert everything(live) == numbered(3_000)
    assert not list(directory.glob("a.log.c*"))


def test_a_rotation_continues_after_a_failed_rename(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live = directory / "a.log"
    live.write_bytes(numbered(3_000))
    stream = OutputStream(live)
    rename = LogDirectory.rename

    def fail(folder: LogDirectory, old: str, new: str) -> None:
        if old.endswith(".1"):
            raise OSError(28, "No space left on device")
        rename(folder, old, new)

    with monkeypatch.context() as patch:
        patch.setattr(LogDirectory, "rename", fail)
        with pytest.raises(OSError, match="No space"):
            stream.rotate(8192, 100)
    stream.rotate(8192, 100)
    assert everything(live) == numbered(3_000)


def test_a_file_system_that_cannot_free_heads_loses_no_output_and_is_logged_once(
    outputs: OutputFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unsupported(fd: int, start: int, stop: int) -> None:
        raise UnsupportedError(95, "Operation not supported")

    monkeypatch.setattr("hostmanager_server.drivers.output.stream.punch_head", unsupported)
    policy = LogPolicy(size=4096, keep=2)
    with caplog.at_level(logging.WARNING):
        for name in ("a", "b"):
            with os.fdopen(outputs.open_for_append(name, policy), "wb") as file:
                file.write(numbered(5_000))
            outputs.resume(name, policy)
        wait_until(lambda: bool(caplog.records), "the warning")
        outputs.close()
    assert len(caplog.records) == 1
    assert "cannot rotate" in caplog.text
    for name in ("a", "b"):
        assert outputs.path(name, policy).read_bytes() == numbered(5_000)


def test_a_file_removed_or_truncated_by_an_operator_is_still_rotated(outputs: OutputFiles) -> None:
    policy = LogPolicy(size=64 * 1024, keep=100)
    live = outputs.path("a", policy)
    write(outputs, policy, numbered(20_000))
    wait_until(lambda: len(archives(live)) >= 2, "rotated")
    live.unlink()
    write(outputs, policy, numbered(20_000))
    wait_until(lambda: live_bytes(live) != b"" and len(live_bytes(live)) <= policy.size, "rotated after rm")
    os.truncate(live, 0)
    before = len(archives(live))
    write(outputs, policy, numbered(20_000))
    wait_until(lambda: len(archives(live)) > before and len(live_bytes(live)) <= policy.size, "rotated")
    outputs.close()
    assert everything(live).endswith(numbered(20_000))


def test_a_full_disk_leaves_the_output_unchanged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs root and the right to mount")
    outputs = OutputFiles(mount)
    policy = LogPolicy(size=128 * 1024, keep=3)
    try:
        data = numbered(20_000)[: 200 * 1024]
        with caplog.at_level(logging.WARNING):
            write(outputs, policy, data)
            outputs.resume("a", policy)
            wait_until(lambda: "No space left on device" in caplog.text, "warned")
        outputs.close()
        assert everything(mount / "a.log") == data
        assert [path.name for path in mount.iterdir()] == ["a.log"]
    finally:
        outputs.close()
        subprocess.run(["umount", str(mount)], check=True)


def rotation_thread() -> int:
    found = [thread.native_id for thread in threading.enumerate() if thread.name == "log-rotation"]
    assert len(found) == 1
    assert found[0] is not None
    return found[0]


def switches(tid: int) -> int:
    lines = Path(f"/proc/self/task/{tid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)


def test_the_rotation_thread_sleeps_while_no_process_writes(tmp_path: Path) -> None:
    outputs = OutputFiles(tmp_path)
    policy = LogPolicy(size=64 * 1024, keep=2)
    pause = threading.Event()
    try:
        for number in range(200):
            with suppress(OSError):
                os.close(outputs.open_for_append(f"quiet{number}", policy))
        write(outputs, policy, b"hello\n")
        tid = rotation_thread()
        last = -1

        def quiet() -> bool:
            nonlocal last
            before, last = last, switches(tid)
            pause.wait(0.5)  # longer than the shortest wait, so a due inspection would show
            return before == last == switches(tid)

        wait_until(quiet, "the thread sleeps")
        write(outputs, policy, numbered(30_000))
        wait_until(lambda: len(live_bytes(outputs.path("a", policy))) <= policy.size, "woken by a write")
    finally:
        outputs.close()


def test_without_inotify_watches_a_timer_inspects_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def exhausted() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("hostmanager_server.drivers.output.rotation.INotify", exhausted)
    monkeypatch.setattr("hostmanager_server.drivers.output.rotation.LONGEST_WAIT", 0.3)
    outputs = OutputFiles(tmp_path)
    policy = LogPolicy(size=64 * 1024, keep=2)
    try:
        fd = outputs.open_for_append("a", policy)
        wait_until(lambda: "max_user_watches" in caplog.text, "the warning")
        os.write(fd, numbered(20_000))
        os.close(fd)
        wait_until(lambda: len(archives(outputs.path("a", policy))) == 2, "rotated without a watch")
        assert caplog.text.count("max_user_watches") == 1
    finally:
        outputs.close()


def test_close_ends_the_thread_and_closes_every_descriptor(tmp_path: Path) -> None:
    gc.collect()  # closes what other tests left open
    before = len(os.listdir("/proc/self/fd"))
    outputs = OutputFiles(tmp_path)
    write(outputs, LogPolicy(size=4096), numbered(5_000))
    outputs.close()
    outputs.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert not [thread for thread in threading.enumerate() if thread.name == "log-rotation"]


def test_a_new_file_is_blocking_not_inherited_and_writable_by_its_owner_only(tmp_path: Path) -> None:
    outputs = OutputFiles(tmp_path / "not" / "there")
    fd = outputs.open_for_append("a", LogPolicy())
    try:
        assert os.get_blocking(fd)
        assert not os.get_inheritable(fd)
        assert os.fstat(fd).st_mode & 0o137 == 0
    finally:
        os.close(fd)
        outputs.close()


@given(st.text(min_size=1, max_size=300), st.text(min_size=1, max_size=300))
def test_every_instance_id_has_a_valid_and_unique_file_name(one: str, other: str) -> None:
    stem = file_stem(one)
    assert "/" not in stem
    assert "\0" not in stem
    assert not stem.startswith(".")
    assert len(os.fsencode(f"{stem}.log.1000")) < 255
    assert (stem == file_stem(other)) == (one == other)
