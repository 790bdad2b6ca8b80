"""Forged records: the daemon rejects all, and starts in spite of any holder."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hostmanager_server.core.events import Gone, RunKey, StartFailed
from hostmanager_server.drivers.exec import gate
from hostmanager_server.drivers.process.cgroup import Cgroup
from hostmanager_server.drivers.process.records import holders as record_holders
from hostmanager_server.drivers.process.records.directory import has_records

from tests.drivers.process.holders import Holder, forged_record, holder, namespace_prefix, record_path
from tests.drivers.process.test_adoption import A, gone, launch_steady, record, rewrite, runs

if TYPE_CHECKING:
    from tests.drivers.conftest import ProcessHarness

# Files that a process may hold in the place of a record, with a removed name.
KINDS = {
    "a socket": "socket.socket(socket.AF_UNIX).bind(P); hold(os.open(P, os.O_PATH), P)",
    "a link": "os.symlink('/etc/passwd', P); hold(os.open(P, os.O_PATH | os.O_NOFOLLOW), P)",
    "a dangling link": "os.symlink('nowhere', P); hold(os.open(P, os.O_PATH | os.O_NOFOLLOW), P)",
    "a pipe": "os.mkfifo(P); hold(os.open(P, os.O_RDWR), P)",
    "a pipe that nobody opened": "os.mkfifo(P); hold(os.open(P, os.O_PATH), P)",
    "a directory": "os.mkdir(P); os.dup2(os.open(P, os.O_RDONLY), AT); os.rmdir(P)",
    "a file without a record": "regular(P, b'nonsense', lock=False)",
}


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that belongs to no run."""
    process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def directory(real: ProcessHarness) -> Path:
    return real.directory / "runs"


def adopt_and_end(real: ProcessHarness) -> list[str]:
    """Adopt with a new daemon, end all runs, and return their instances."""
    real.replace_driver()
    adopted = real.driver.adopt({})
    for one in adopted:
        real.driver.stop(one.run, signal.SIGKILL, whole_tree=True)
    return [one.run.instance_id for one in adopted]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_held_in_the_place_of_a_record_does_not_stop_the_daemon(
    real: ProcessHarness, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    pid = launch_steady(real)
    with holder() as other:
        other.do(f"P = {record_path(directory(real))!r}; {KINDS[kind]}")
        assert not has_records(real.directory / "elsewhere")
        real.replace_driver()
        assert [one.pid for one in real.driver.adopt({})] == [pid]
        if "file" not in kind:
            assert f"pid {other.process.pid}" in caplog.text
        assert other.is_alive()
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))


def test_a_device_in_the_place_of_a_record_is_not_opened(real: ProcessHarness) -> None:
    with holder() as other:
        code = (
            # a device without driver
            f"P = {record_path(directory(real))!r}; os.mknod(P, 0o20600, os.makedev(10, 0)); "
        )
        try:
            other.do(code + "hold(os.open(P, os.O_PATH), P)")
        except AssertionError:
            pytest.skip("device nodes are for root to make")
        assert adopt_and_end(real) == []


def test_only_the_first_skipped_processes_are_named(
    real: ProcessHarness, caplog: pytest.LogCaptureFixture
) -> None:
    with holder() as other:
        other.do(f"P = {record_path(directory(real))!r}; " + KINDS["a pipe"])
        other.do("pids = [os.fork() or __import__('signal').pause() for _ in range(30)]")
        try:
            assert adopt_and_end(real) == []
        finally:
            other.do("[os.kill(pid, 9) for pid in pids]")
    assert caplog.text.count("seems to hold") == 10
    assert "21 more" in caplog.text


def test_a_process_that_ends_during_the_inspection_is_skipped(
    real: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    with holder() as other:
        other.do(f"P = {record_path(directory(real))!r}; regular(P, b'nonsense')")
        listed = os.listdir

        def ends(path: str) -> list[str]:
            names = listed(path)
            if path == "/proc":
                other.process.kill()
                other.process.wait()
            return names

        monkeypatch.setattr(os, "listdir", ends)
        assert adopt_and_end(real) == []


@pytest.mark.parametrize(
    "options",
    [("--mount",), ("--mount", "--pid", "--fork"), ("--mount", "--user", "--map-root-user")],
    ids=" ".join,
)
@pytest.mark.parametrize("named", ["a bystander", "the holder"])
def test_a_record_held_in_other_namespaces_is_rejected(
    real: ProcessHarness, options: tuple[str, ...], named: str, bystander: subprocess.Popen[bytes]
) -> None:
    with holder(*namespace_prefix(*options)) as other:
        other.do(f"subprocess.run(['mount', '-t', 'tmpfs', 'none', {str(directory(real))!r}], check=True)")
        pid = bystander.pid if named == "a bystander" else other.process.pid
        other.do(f"regular({record_path(directory(real))!r}, {forged_record(pid).to_json()!r})")
        assert adopt_and_end(real) == []
        assert bystander.poll() is None
        assert other.is_alive()
    assert real.records() == []


def test_a_record_of_another_mount_is_rejected_in_every_namespace(
    real: ProcessHarness, bystander: subprocess.Popen[bytes]
) -> None:
    namespace_prefix("--mount")
    with holder() as other:
        other.do("ours = os.open('/proc/self/ns/mnt', os.O_RDONLY); assert libc.unshare(0x20000) == 0")
        # Stays open: the namespace keeps its mounts, and with them the path of the file.
        other.do("theirs = os.open('/proc/self/ns/mnt', os.O_RDONLY)")
        other.do("subprocess.run(['mount', '--make-rprivate', '/'], check=True)")
        other.do(f"subprocess.run(['mount', '-t', 'tmpfs', 'none', {str(directory(real))!r}], check=True)")
        other.do(f"regular({record_path(directory(real))!r}, {forged_record(other.process.pid).to_json()!r})")
        other.do("assert libc.setns(ours, 0) == 0")
        assert adopt_and_end(real) == []
        assert other.is_alive()


def test_a_removed_record_is_rejected_if_its_holder_is_not_of_the_run(
    real: ProcessHarness, bystander: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    with holder() as other:
        other.do(f"regular({record_path(directory(real))!r}, {forged_record(bystander.pid).to_json()!r})")
        assert adopt_and_end(real) == []
        assert other.is_alive()
        assert f"pid {other.process.pid}" in caplog.text
    assert bystander.poll() is None


def test_a_removed_record_is_read_up_to_the_maximum_length(
    real: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_holders, "LONGEST", 1000)
    pid = launch_steady(real)
    with record(real).open("r+b") as file:
        file.truncate(1 << 40)  # sparse
    record(real).unlink()
    real.replace_driver()
    assert real.driver.adopt({}) == []
    assert runs(pid)
    real.crash("a")
    real.wait_for(lambda: not runs(pid))


def test_the_cgroup_of_a_record_counts_only_where_it_was_made_for_that_run(
    grouped: ProcessHarness, cgroup: Path, bystander: subprocess.Popen[bytes]
) -> None:
    pid = launch_steady(grouped)
    stranger = cgroup / "stranger"
    stranger.mkdir()
    (stranger / "cgroup.procs").write_text(str(bystander.pid))
    rewrite(record(grouped), cgroup={"path": str(stranger), "inode": stranger.stat().st_ino})
    assert adopt_and_end(grouped) == ["a"]
    grouped.wait_for(lambda: gone(grouped))
    assert not runs(pid)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()
    assert Cgroup(str(stranger), stranger.stat().st_ino).exists()


# --- in the directory of records


def put_in_place(path: Path, what: str, data: bytes) -> None:
    """Put something other than a record of the daemon in the place of one."""
    elsewhere = path.with_name("elsewhere")
    if what in ("a link", "a second name"):
        elsewhere.write_bytes(data)
    match what:
        case "a link":
            path.symlink_to(elsewhere)
        case "a second name":
            path.hardlink_to(elsewhere)
        case "a directory":
            path.mkdir()
        case "a pipe":
            os.mkfifo(path)
        case "another user's file":
            path.write_bytes(data)
            os.chown(path, 65534, 65534)


@pytest.mark.parametrize("what", ["a link", "a second name", "a directory", "another user's file", "a pipe"])
def test_a_foreign_file_in_the_directory_is_rejected(
    real: ProcessHarness, what: str, bystander: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    if what == "another user's file" and os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    pid = launch_steady(real)
    path = directory(real) / "forged.json"
    put_in_place(path, what, forged_record(bystander.pid).to_json())
    assert adopt_and_end(real) == ["a"]
    real.wait_for(lambda: gone(real))
    assert not runs(pid)
    assert bystander.poll() is None
    assert f"'{path}'" in caplog.text


def test_a_record_with_a_second_name_still_prevents_a_second_agent(real: ProcessHarness) -> None:
    pid = launch_steady(real)
    (real.directory / "backup").hardlink_to(record(real))
    real.replace_driver()
    assert real.driver.adopt({}) == []
    real.driver.launch(RunKey("a", 2), real.command("a", "sleep", "1000"))
    (why,) = [event.why for event in real.events if isinstance(event, StartFailed)]
    assert f"pid {pid}" in why
    real.crash("a")
    real.wait_for(lambda: not runs(pid))


@pytest.mark.parametrize("what", ["a link", "a second name", "a pipe"])
def test_nothing_is_written_through_a_link_in_the_place_of_a_record(real: ProcessHarness, what: str) -> None:
    put_in_place(directory(real) / "a.free", what, b"precious")
    launch_steady(real)
    assert record(real).stat().st_nlink == 1
    assert not record(real).is_symlink()
    if what != "a pipe":
        assert (directory(real) / "elsewhere").read_bytes() == b"precious"
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))


def test_the_directory_of_records_is_closed_to_others_again(
    real: ProcessHarness, caplog: pytest.LogCaptureFixture
) -> None:
    directory(real).chmod(0o777)
    real.replace_driver()
    assert directory(real).stat().st_mode & 0o777 == 0o700
    assert str(directory(real)) in caplog.text


def test_a_directory_open_to_others_does_not_stop_the_daemon(
    real: ProcessHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def read_only(path: Path, mode: int) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    pid = launch_steady(real)
    directory(real).chmod(0o755)
    monkeypatch.setattr(os, "chmod", read_only)
    real.replace_driver()
    assert [one.pid for one in real.driver.adopt({})] == [pid]
    assert os.strerror(errno.EROFS) in caplog.text
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))


@pytest.mark.parametrize("field", [{"pid": 1 << 40}, {"pid": 0}, {"token": "\ud800"}, {"number": 1e999}])
def test_a_record_of_impossible_values_is_set_aside(real: ProcessHarness, field: dict[str, object]) -> None:
    launch_steady(real)
    content = record(real).read_bytes()
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))
    record(real).write_bytes(content)
    rewrite(record(real), **field)
    assert adopt_and_end(real) == []
    assert record(real).with_suffix(".corrupt").exists()


def test_holders_execute_their_commands(real: ProcessHarness) -> None:
    # If this test fails, most tests above prove nothing.
    with holder() as other:
        other.do(f"regular({record_path(directory(real))!r}, b'x')")
        link = os.readlink(f"/proc/{other.process.pid}/fd/{gate.lock_descriptor()}")
        assert link == f"{record_path(directory(real))} (deleted)"
    assert isinstance(other, Holder)
    assert replace(forged_record(os.getpid()), ready=False).identity.pid == os.getpid()
    assert not any(isinstance(event, Gone) for event in real.events)
