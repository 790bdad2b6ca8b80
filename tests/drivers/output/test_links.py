"""Log directories that agents may write, with links and foreign files in place of the daemon's files."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hostmanager_server.core.spec import LogPolicy
from hostmanager_server.drivers.output.output_files import OutputFiles
from hostmanager_server.drivers.output.stream import OutputStream
from hostmanager_server.drivers.output.wanted_lines import WantedLines

from tests.waiting import wait_until

OTHER = 12345  # a user without processes
SECRET = b"only the owner reads or writes this\n" * 1000  # more than SMALL.size
SMALL = LogPolicy(size=4096, keep=3)
LINES = b"".join(b"line %d\n" % number for number in range(3_000))

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files to other users")


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """Create a file of another user, and check after the test that the file is unchanged."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    file = folder / "victim"
    file.write_bytes(SECRET)
    os.utime(file, ns=(1, 1))
    before = file.stat()
    yield file
    after = file.stat()
    assert file.read_bytes() == SECRET
    assert after.st_mtime_ns == 1
    assert (after.st_mode, after.st_uid, after.st_ino) == (before.st_mode, before.st_uid, before.st_ino)
    assert [path.name for path in folder.iterdir()] == ["victim"], "the daemon created a file"


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Create a log directory."""
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder


@pytest.fixture
def outputs(logs: Path) -> Iterator[OutputFiles]:
    """Create the output files in the log directory."""
    files = OutputFiles(logs)
    yield files
    files.close()


def text_of(outputs: OutputFiles, policy: LogPolicy = SMALL) -> str:
    """Return all lines of instance `a`, as TailLogs would."""

    async def collect() -> str:
        return "\n".join(
            [line.text async for batch in outputs.read("a", policy, WantedLines(100_000)) for line in batch]
        )

    return asyncio.run(collect())


def link(place: Path, victim: Path) -> None:
    place.symlink_to(victim)


def link_to_nothing(place: Path, victim: Path) -> None:
    place.symlink_to(victim.with_name("new"))


def hard_link(place: Path, victim: Path) -> None:
    place.hardlink_to(victim)


def fifo(place: Path, _: Path) -> None:
    os.mkfifo(place)


def directory(place: Path, _: Path) -> None:
    place.mkdir()


def socket_file(place: Path, _: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))


def device(place: Path, _: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a device")
    os.mknod(place, 0o666 | stat.S_IFCHR, os.makedev(1, 3))  # as /dev/null


def file_of_another(place: Path, _: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to give files to other users")
    place.write_bytes(SECRET)
    os.chown(place, OTHER, OTHER)


PLANTED = [link, link_to_nothing, hard_link, fifo, directory, socket_file, device, file_of_another]
REFUSALS: dict[Callable[[Path, Path], None], str] = {
    link: "is a link to '.*victim'; remove the file",
    link_to_nothing: "is a link to '.*new'; remove the file",
    hard_link: "is a hard link, with 2 names",
    fifo: "is a FIFO",
    directory: "is a directory",
    socket_file: "is a socket",
    device: "is a device",
    file_of_another: f"belongs to user {OTHER}",
}


@pytest.mark.parametrize("plant", PLANTED)
def test_a_planted_file_is_not_written_to(
    outputs: OutputFiles, logs: Path, victim: Path, plant: Callable[[Path, Path], None]
) -> None:
    plant(logs / "a.log", victim)
    with pytest.raises(OSError, match=f"'{logs}/a.log': the file {REFUSALS[plant]}"):
        os.close(outputs.open_for_append("a", SMALL))
    if plant is file_of_another:
        assert (logs / "a.log").read_bytes() == SECRET


@pytest.mark.parametrize("plant", PLANTED)
def test_a_planted_file_is_not_read(
    outputs: OutputFiles, logs: Path, victim: Path, plant: Callable[[Path, Path], None]
) -> None:
    plant(logs / "a.log", victim)
    with pytest.raises(OSError, match=f"'{logs}/a.log': the file {REFUSALS[plant]}"):
        text_of(outputs)


@pytest.mark.parametrize("plant", PLANTED)
def test_a_planted_file_in_place_of_the_live_file_is_not_rotated_and_logged_once(
    outputs: OutputFiles,
    logs: Path,
    victim: Path,
    plant: Callable[[Path, Path], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("hostmanager_server.drivers.output.rotation.LONGEST_WAIT", 0.05)
    os.close(outputs.open_for_append("a", SMALL))
    (logs / "a.log").unlink()
    plant(logs / "a.log", victim)
    with caplog.at_level(logging.WARNING):
        outputs.resume("a", SMALL)
        wait_until(lambda: "cannot rotate" in caplog.text, "the warning")
        outputs.resume("a", SMALL)
        outputs.close()
    assert len(caplog.records) == 1
    assert f"'{logs}/a.log': the file" in caplog.text
    assert sorted(path.name for path in logs.iterdir()) == ["a.log"]


def test_a_fifo_with_a_reader_gets_no_output(outputs: OutputFiles, logs: Path) -> None:
    os.mkfifo(logs / "a.log")
    reader = os.open(logs / "a.log", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(OSError, match="is a FIFO"):
            os.close(outputs.open_for_append("a", SMALL))
        assert os.read(reader, 100) == b""
    finally:
        os.close(reader)


def test_links_that_appear_during_an_open_are_not_followed(tmp_path: Path, logs: Path, victim: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    site.chmod(0o777)
    (site / "logs").mkdir()
    stop = threading.Event()

    def swap(place: Path, target: Path, plain: Callable[[Path], None]) -> None:
        """Alternate between a link and a plain file or directory of the same name."""
        while not stop.is_set():
            with suppress(OSError):
                place.rmdir() if place.is_dir() and not place.is_symlink() else place.unlink()
                plain(place)
                place.rmdir() if place.is_dir() else place.unlink()
                place.symlink_to(target)

    threads = [
        threading.Thread(target=swap, args=(logs / "a.log", victim, Path.touch)),
        threading.Thread(target=swap, args=(logs / "a.log.copying", victim.with_name("new"), Path.touch)),
        threading.Thread(target=swap, args=(site / "logs", victim.parent, Path.mkdir)),
    ]
    for thread in threads:
        thread.start()
    try:
        with closing(OutputFiles(logs)) as outputs, closing(OutputFiles(site / "logs")) as others:
            for _ in range(300):
                for files in (outputs, others):
                    with suppress(OSError):
                        append(files, LINES[:8192])
                with suppress(OSError):
                    OutputStream(logs / "a.log").rotate(4096, 2)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_lease_of_another_process_does_not_block_the_daemon(outputs: OutputFiles, logs: Path) -> None:
    file = logs / "a.log"
    file.touch()
    script = (
        "import fcntl, os, signal, sys\n"
        "signal.signal(signal.SIGIO, signal.SIG_IGN)\n"
        "fd = os.open(sys.argv[1], os.O_RDWR)\n"
        "fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n"
        "print(flush=True)\n"
        "signal.pause()\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, file], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        if not holder.stdout.readline():
            pytest.skip("this file system has no leases")
        with pytest.raises(OSError, match="another process holds a lease on the file"):
            os.close(outputs.open_for_append("a", SMALL))
    finally:
        holder.kill()
        holder.communicate()
    os.close(outputs.open_for_append("a", SMALL))


@pytest.mark.parametrize("plant", [link, link_to_nothing, hard_link, fifo, socket_file, file_of_another])
def test_a_planted_file_with_the_name_of_a_copy_is_not_written_to(
    logs: Path, victim: Path, plant: Callable[[Path, Path], None]
) -> None:
    live = logs / "a.log"
    live.write_bytes(LINES)
    stream = OutputStream(live)
    stream.live_size()  # recovers the archives of an earlier daemon first
    plant(logs / "a.log.copying", victim)
    stream.rotate(8192, 100)
    assert b"".join(p.read_bytes() for p in numbered(logs)) == LINES[: -len(live_data(live))]
    assert not os.path.lexists(logs / "a.log.copying")


def live_data(live: Path) -> bytes:
    return live.read_bytes().lstrip(b"\0")


def numbered(logs: Path) -> list[Path]:
    """Return the archives, oldest first."""
    found = [path for path in logs.glob("a.log.*") if path.name.removeprefix("a.log.").isdecimal()]
    return sorted(found, key=lambda path: -int(path.suffix[1:]))


def test_no_output_is_removed_when_another_file_replaces_the_copy(
    logs: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = logs / "a.log"
    live.write_bytes(LINES)
    sync = os.fdatasync

    def swap(fd: int) -> None:
        sync(fd)
        (logs / "a.log.copying").unlink()
        (logs / "a.log.copying").symlink_to(victim)

    monkeypatch.setattr(os, "fdatasync", swap)
    with pytest.raises(OSError, match="another process replaced the file"):
        OutputStream(live).rotate(8192, 100)
    assert live.read_bytes() == LINES
    assert [path.name for path in logs.iterdir()] == ["a.log"]


@pytest.mark.parametrize("plant", PLANTED)
def test_a_planted_file_with_the_name_of_a_cut_copy_becomes_no_archive(
    outputs: OutputFiles, logs: Path, victim: Path, plant: Callable[[Path, Path], None]
) -> None:
    (logs / "a.log").write_bytes(b"hello\n")
    plant(logs / "a.log.cut.4096", victim)
    assert text_of(outputs) == "hello"
    assert not numbered(logs)


@pytest.mark.parametrize("plant", PLANTED)
def test_a_planted_file_with_the_name_of_an_archive_is_left_out_and_logged_once(
    outputs: OutputFiles,
    logs: Path,
    victim: Path,
    plant: Callable[[Path, Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (logs / "a.log").write_bytes(b"hello\n")
    (logs / "a.log.2").write_bytes(b"before\n")
    plant(logs / "a.log.1", victim)
    plant(logs / "a.log.٣", victim)  # ends with a digit that is not ASCII
    with caplog.at_level(logging.WARNING):
        assert text_of(outputs) == "before\nhello"
        assert text_of(outputs) == "before\nhello"
    assert len(caplog.records) == 1
    assert f"'{logs}/a.log.1': the file" in caplog.text


def test_an_archive_that_a_link_replaces_is_not_read(outputs: OutputFiles, logs: Path, victim: Path) -> None:
    (logs / "a.log").write_bytes(b"hello\n")
    (logs / "a.log.1").write_bytes(b"before\n")
    assert text_of(outputs) == "before\nhello"
    (logs / "a.log.1").unlink()
    (logs / "a.log.1").symlink_to(victim)
    assert text_of(outputs) == "hello"


@pytest.mark.parametrize("plant", [link, link_to_nothing, hard_link, fifo, socket_file, file_of_another])
def test_rotation_replaces_planted_files_with_the_names_of_archives(
    logs: Path, victim: Path, plant: Callable[[Path, Path], None]
) -> None:
    live = logs / "a.log"
    live.write_bytes(LINES)
    for number in range(1, 5):
        plant(logs / f"a.log.{number}", victim)
    stream = OutputStream(live)
    stream.rotate(8192, 3)
    assert LINES.endswith(b"".join(p.read_bytes() for p in numbered(logs)[-3:]) + live_data(live))


# --- the directory


def append(outputs: OutputFiles, data: bytes = b"hello\n") -> None:
    with open(outputs.open_for_append("a", SMALL), "wb") as file:
        file.write(data)


def test_a_link_by_an_operator_is_followed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "var").symlink_to("data")
    (tmp_path / "data" / "logs").symlink_to(tmp_path / "data" / "host1")
    with closing(OutputFiles(tmp_path / "var" / "logs")) as outputs:
        append(outputs)
        assert text_of(outputs) == "hello"
    assert (tmp_path / "data" / "host1" / "a.log").read_bytes() == b"hello\n"


@pytest.mark.parametrize("below", ["", "not/there"])
def test_a_link_in_a_directory_that_others_may_write_is_refused(
    tmp_path: Path, victim: Path, below: str
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "logs").symlink_to(victim.parent)
    outputs = OutputFiles(site / "logs" / below)
    with closing(outputs):
        site.chmod(0o777)
        with pytest.raises(
            OSError, match=r"'logs' is a link to '.*', and the link is below a directory that"
        ):
            append(outputs)
        with pytest.raises(OSError, match="name the directory itself in 'log-dir'"):
            text_of(outputs)
        site.chmod(0o1777)  # sticky: other users cannot replace a link of this user
        if not below:
            append(outputs)
            (victim.parent / "a.log").unlink()


@needs_root
@pytest.mark.parametrize("mode", [0o755, 0o1777])
def test_a_link_of_another_user_is_refused(tmp_path: Path, victim: Path, mode: int) -> None:
    site = tmp_path / "site"
    site.mkdir()
    site.chmod(mode)
    (site / "logs").symlink_to(victim.parent)
    os.chown(site / "logs", OTHER, OTHER, follow_symlinks=False)
    with (
        closing(OutputFiles(site / "logs")) as outputs,
        pytest.raises(OSError, match=f"the link belongs to user {OTHER}"),
    ):
        append(outputs)


@needs_root
def test_an_own_link_below_a_directory_of_another_user_is_refused(tmp_path: Path, victim: Path) -> None:
    site = tmp_path / "home" / "site"
    site.mkdir(parents=True)
    (site / "logs").symlink_to(victim.parent)
    os.chown(tmp_path / "home", OTHER, OTHER)
    with (
        closing(OutputFiles(site / "logs")) as outputs,
        pytest.raises(OSError, match=f"the link is below a directory of user {OTHER}"),
    ):
        append(outputs)


@needs_root
def test_a_hard_link_to_a_link_is_refused_where_other_users_may_create_one(
    tmp_path: Path, victim: Path
) -> None:
    (tmp_path / "link").symlink_to(victim.parent)
    site = tmp_path / "site"
    site.mkdir()
    os.link(tmp_path / "link", site / "logs", follow_symlinks=False)
    site.chmod(0o1777)
    with closing(OutputFiles(site / "logs")) as outputs, pytest.raises(OSError, match="more than one name"):
        append(outputs)


def test_a_directory_that_a_link_replaces_between_two_uses_is_refused(
    tmp_path: Path, victim: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    site.chmod(0o777)
    with closing(OutputFiles(site / "logs")) as outputs:
        append(outputs)
        (site / "logs").rename(site / "before")
        (site / "logs").symlink_to(victim.parent)
        with pytest.raises(OSError, match="'logs' is a link"):
            append(outputs)
        with pytest.raises(OSError, match="'logs' is a link"):
            text_of(outputs)
        with caplog.at_level(logging.WARNING):
            (victim.parent / "a.log").write_bytes(LINES)
            outputs.resume("a", SMALL)
            wait_until(lambda: "cannot rotate" in caplog.text, "the warning")
        assert (victim.parent / "a.log").read_bytes() == LINES
        (victim.parent / "a.log").unlink()


def test_links_in_a_circle_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    with (
        closing(OutputFiles(tmp_path / "one")) as outputs,
        pytest.raises(OSError, match=f"levels of symbolic links: '{tmp_path}/one'"),
    ):
        append(outputs)


def test_a_relative_directory_with_steps_up_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with closing(OutputFiles(Path("../there/./logs"))) as outputs:
        append(outputs)
        assert text_of(outputs) == "hello"
    assert (tmp_path / "there" / "logs" / "a.log").exists()


def test_a_refusal_leaks_no_descriptor(outputs: OutputFiles, logs: Path, victim: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for plant in (link, hard_link, fifo, directory):
        plant(logs / "a.log", victim)
        with suppress(OSError):
            outputs.open_for_append("a", SMALL)
        with suppress(OSError):
            text_of(outputs)
        (logs / "a.log").rmdir() if plant is directory else (logs / "a.log").unlink()
    assert len(os.listdir("/proc/self/fd")) == before


# --- owners of files


@needs_root
def test_a_file_of_the_agents_user_is_appended_to_rotated_and_read(logs: Path) -> None:
    policy = LogPolicy(size=4096, keep=1000, user=str(OTHER))
    (logs / "a.log").touch()
    (logs / "a.log.1").write_bytes(b"before\n")
    for name in ("a.log", "a.log.1"):
        os.chown(logs / name, OTHER, OTHER)
    logs.chmod(0o2775)
    os.chown(logs, OTHER, OTHER)
    with closing(OutputFiles(logs)) as outputs:
        with open(outputs.open_for_append("a", policy), "wb") as file:
            file.write(LINES)
        outputs.resume("a", policy)
        wait_until(lambda: len(live_data(logs / "a.log")) <= policy.size, "rotated")
        assert text_of(outputs, policy) == "before\n" + LINES.decode().rstrip("\n")
        with pytest.raises(OSError, match="the file belongs to user"):
            text_of(outputs, SMALL)


@pytest.fixture
def public() -> Iterator[Path]:
    """Create a folder that other users can enter, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


# A daemon of another user, in a directory that its group may write: write, rotate, read and refuse.
DAEMON_OF_A_PLAIN_USER = """
import os, sys
from pathlib import Path
from hostmanager_server.core.spec import LogPolicy
from hostmanager_server.drivers.output.output_files import OutputFiles
from hostmanager_server.drivers.output.stream import OutputStream
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2])); os.umask(0o002)
folder = Path(sys.argv[1])
outputs = OutputFiles(folder / "logs")
with open(outputs.open_for_append("a", LogPolicy()), "wb") as file:
    file.write(b"line\\n" * 4000)
stream = OutputStream(folder / "logs" / "a.log")
assert stream.rotate(8192, 3)
stream.acquire()
assert stream.read_before(stream.end(), 10) == b"line\\nline\\n"
try:
    outputs.open_for_append("b", LogPolicy())
except OSError as error:
    print(error)
"""


@needs_root
def test_a_plain_users_daemon_works_in_a_directory_of_its_group(public: Path) -> None:
    site = public / "site"
    (site / "logs").mkdir(parents=True)
    (site / "victim").write_text("mine")
    (site / "logs" / "b.log").symlink_to(site / "victim")
    for path in (site, site / "logs", site / "victim"):
        os.chown(path, OTHER, OTHER)
    (site / "logs").chmod(0o2775)
    done = subprocess.run(
        [sys.executable, "-c", DAEMON_OF_A_PLAIN_USER, site, str(OTHER)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "is a link to" in done.stdout
    assert (site / "victim").read_text() == "mine"
    assert (site / "logs" / "a.log.1").stat().st_uid == OTHER
