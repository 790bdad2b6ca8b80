"""Forged records: the daemon believes none, and starts whatever other processes hold."""

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

from tests.drivers.process.holders import Holder, forged, holder, in_namespaces, place
from tests.drivers.process.test_adoption import A, gone, launch_steady, record, rewrite, runs

if TYPE_CHECKING:
    from tests.drivers.conftest import RealHarness

# What a process may hold where agents hold their record, by a name that is removed.
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
    """A process that no run has to do with."""
    process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def directory(real: RealHarness) -> Path:
    return real.directory / "runs"


def adopt_and_end(real: RealHarness) -> list[str]:
    """A new daemon takes back what it finds, and ends all of it; the instances."""
    real.successor()
    adopted = real.driver.adopt({})
    for one in adopted:
        real.driver.stop(one.run, signal.SIGKILL, whole_tree=True)
    return [one.run.instance_id for one in adopted]


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_process_holds_in_the_place_of_a_record_keeps_no_daemon_from_starting(
    real: RealHarness, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    pid = launch_steady(real)
    with holder() as other:
        other.do(f"P = {place(directory(real))!r}; {KINDS[kind]}")
        assert not has_records(real.directory / "elsewhere")
        real.successor()
        assert [one.pid for one in real.driver.adopt({})] == [pid]
        if "file" not in kind:
            assert f"pid {other.process.pid}" in caplog.text
        assert other.lives()
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))


def test_a_device_in_the_place_of_a_record_is_not_opened(real: RealHarness) -> None:
    with holder() as other:
        code = f"P = {place(directory(real))!r}; os.mknod(P, 0o20600, os.makedev(10, 0)); "  # of no driver
        try:
            other.do(code + "hold(os.open(P, os.O_PATH), P)")
        except AssertionError:
            pytest.skip("device nodes are for root to make")
        assert adopt_and_end(real) == []


def test_many_such_processes_are_named_up_to_a_number(
    real: RealHarness, caplog: pytest.LogCaptureFixture
) -> None:
    with holder() as other:
        other.do(f"P = {place(directory(real))!r}; " + KINDS["a pipe"])
        other.do("pids = [os.fork() or __import__('signal').pause() for _ in range(30)]")
        try:
            assert adopt_and_end(real) == []
        finally:
            other.do("[os.kill(pid, 9) for pid in pids]")
    assert caplog.text.count("seems to hold") == 10
    assert "21 more" in caplog.text


def test_a_process_that_ends_while_it_is_looked_at_is_skipped(
    real: RealHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    with holder() as other:
        other.do(f"P = {place(directory(real))!r}; regular(P, b'nonsense')")
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
def test_a_record_that_is_held_in_other_namespaces_is_not_believed(
    real: RealHarness, options: tuple[str, ...], named: str, bystander: subprocess.Popen[bytes]
) -> None:
    with holder(*in_namespaces(*options)) as other:
        other.do(f"subprocess.run(['mount', '-t', 'tmpfs', 'none', {str(directory(real))!r}], check=True)")
        pid = bystander.pid if named == "a bystander" else other.process.pid
        other.do(f"regular({place(directory(real))!r}, {forged(pid).to_json()!r})")
        assert adopt_and_end(real) == []
        assert bystander.poll() is None
        assert other.lives()
    assert real.records() == []


def test_a_record_of_another_mount_is_not_believed_whatever_namespace_its_holder_is_in(
    real: RealHarness, bystander: subprocess.Popen[bytes]
) -> None:
    in_namespaces("--mount")
    with holder() as other:
        other.do("ours = os.open('/proc/self/ns/mnt', os.O_RDONLY); assert libc.unshare(0x20000) == 0")
        # Kept open: its mounts, and with them the path of the file, last as long as the namespace.
        other.do("theirs = os.open('/proc/self/ns/mnt', os.O_RDONLY)")
        other.do("subprocess.run(['mount', '--make-rprivate', '/'], check=True)")
        other.do(f"subprocess.run(['mount', '-t', 'tmpfs', 'none', {str(directory(real))!r}], check=True)")
        other.do(f"regular({place(directory(real))!r}, {forged(other.process.pid).to_json()!r})")
        other.do("assert libc.setns(ours, 0) == 0")
        assert adopt_and_end(real) == []
        assert other.lives()


def test_a_removed_record_is_not_believed_of_a_holder_that_is_not_of_its_run(
    real: RealHarness, bystander: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    with holder() as other:
        other.do(f"regular({place(directory(real))!r}, {forged(bystander.pid).to_json()!r})")
        assert adopt_and_end(real) == []
        assert other.lives()
        assert f"pid {other.process.pid}" in caplog.text
    assert bystander.poll() is None


def test_a_removed_record_is_not_read_beyond_what_one_may_have(
    real: RealHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_holders, "LONGEST", 1000)
    pid = launch_steady(real)
    with record(real).open("r+b") as file:
        file.truncate(1 << 40)  # takes no room
    record(real).unlink()
    real.successor()
    assert real.driver.adopt({}) == []
    assert runs(pid)
    real.crash("a")
    real.wait_for(lambda: not runs(pid))


def test_the_cgroup_of_a_record_counts_only_where_it_was_made_for_that_run(
    grouped: RealHarness, cgroup: Path, bystander: subprocess.Popen[bytes]
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


# --- in the directory itself


def plant(path: Path, what: str, data: bytes) -> None:
    """Put something that is no record of the daemon's in the place of one."""
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
def test_what_is_no_file_of_the_daemon_is_not_believed_also_in_its_directory(
    real: RealHarness, what: str, bystander: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    if what == "another user's file" and os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    pid = launch_steady(real)
    path = directory(real) / "forged.json"
    plant(path, what, forged(bystander.pid).to_json())
    assert adopt_and_end(real) == ["a"]
    real.wait_for(lambda: gone(real))
    assert not runs(pid)
    assert bystander.poll() is None
    assert f"'{path}'" in caplog.text


def test_a_record_with_a_second_name_still_keeps_a_second_agent_from_starting(real: RealHarness) -> None:
    pid = launch_steady(real)
    (real.directory / "backup").hardlink_to(record(real))
    real.successor()
    assert real.driver.adopt({}) == []
    real.driver.launch(RunKey("a", 2), real.command("a", "sleep", "1000"))
    (why,) = [event.why for event in real.events if isinstance(event, StartFailed)]
    assert f"pid {pid}" in why
    real.crash("a")
    real.wait_for(lambda: not runs(pid))


@pytest.mark.parametrize("what", ["a link", "a second name", "a pipe"])
def test_nothing_is_written_through_what_is_in_the_place_of_a_new_record(
    real: RealHarness, what: str
) -> None:
    plant(directory(real) / "a.free", what, b"precious")
    launch_steady(real)
    assert record(real).stat().st_nlink == 1
    assert not record(real).is_symlink()
    if what != "a pipe":
        assert (directory(real) / "elsewhere").read_bytes() == b"precious"
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))


def test_the_directory_of_records_is_closed_to_others_again(
    real: RealHarness, caplog: pytest.LogCaptureFixture
) -> None:
    directory(real).chmod(0o777)
    real.successor()
    assert directory(real).stat().st_mode & 0o777 == 0o700
    assert str(directory(real)) in caplog.text


def test_a_directory_that_cannot_be_closed_to_others_keeps_no_daemon_from_starting(
    real: RealHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def read_only(path: Path, mode: int) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    pid = launch_steady(real)
    directory(real).chmod(0o755)
    monkeypatch.setattr(os, "chmod", read_only)
    real.successor()
    assert [one.pid for one in real.driver.adopt({})] == [pid]
    assert os.strerror(errno.EROFS) in caplog.text
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))


@pytest.mark.parametrize("field", [{"pid": 1 << 40}, {"pid": 0}, {"token": "\ud800"}, {"number": 1e999}])
def test_a_record_of_impossible_values_is_set_aside(real: RealHarness, field: dict[str, object]) -> None:
    launch_steady(real)
    content = record(real).read_bytes()
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))
    record(real).write_bytes(content)
    rewrite(record(real), **field)
    assert adopt_and_end(real) == []
    assert record(real).with_suffix(".corrupt").exists()


def test_holders_do_as_they_are_told(real: RealHarness) -> None:
    # Should this fail, most of the above would prove nothing.
    with holder() as other:
        other.do(f"regular({place(directory(real))!r}, b'x')")
        link = os.readlink(f"/proc/{other.process.pid}/fd/{gate.lock_descriptor()}")
        assert link == f"{place(directory(real))} (deleted)"
    assert isinstance(other, Holder)
    assert replace(forged(os.getpid()), ready=False).identity.pid == os.getpid()
    assert not any(isinstance(event, Gone) for event in real.events)
