"""Log directories that cannot be used, modes of new ones, and output files that were removed by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from hostmanager_server.core.spec import LogPolicy
from hostmanager_server.drivers.output.output_files import OutputFiles
from hostmanager_server.drivers.output.wanted_lines import WantedLines

from tests.waiting import wait_until


@pytest.fixture
def files(tmp_path: Path) -> Iterator[OutputFiles]:
    found = OutputFiles(tmp_path / "state" / "logs")
    yield found
    found.close()


def write(files: OutputFiles, policy: LogPolicy, text: bytes, instance_id: str = "a") -> None:
    fd = files.open_for_append(instance_id, policy)
    os.write(fd, text)
    os.close(fd)


async def lines(files: OutputFiles, policy: LogPolicy, instance_id: str = "a") -> list[str]:
    async with aclosing(files.read(instance_id, policy, WantedLines(100))) as batches:
        return [line.text async for batch in batches for line in batch]


async def test_output_goes_to_the_state_directory_while_the_log_directory_cannot_be_made(
    tmp_path: Path, files: OutputFiles
) -> None:
    problems: list[str] = []
    files.listen(problems.append)
    in_the_way = tmp_path / "data"
    in_the_way.write_text("a file")
    policy = LogPolicy(directory=str(in_the_way / "logs"))
    own, instead = in_the_way / "logs" / "a.log", tmp_path / "state" / "logs" / "a.log"
    assert files.path("a", policy) == own

    write(files, policy, b"one\n")
    write(files, policy, b"one\n", "b")
    assert files.path("a", policy) == instead
    assert await lines(files, policy) == ["one"]
    problem = (
        f"cannot write the output in a.log to '{own.parent}': Not a directory; the output goes to "
        f"'{instead.parent}'. Correct 'log-dir' or the folder, and restart the instances"
    )
    assert problems == [problem, problem.replace("in a.log", "of 2 instances")]

    later = OutputFiles(tmp_path / "state" / "logs")  # of the next daemon
    assert await lines(later, policy) == ["one"]
    later.close()

    in_the_way.unlink()
    write(files, policy, b"two\n")
    files.forget("b", policy)
    assert files.path("a", policy) == own
    assert await lines(files, policy) == ["two"]
    assert problems[-1] == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_leaves_a_log_directory_that_may_not_be_written(tmp_path: Path, files: OutputFiles) -> None:
    folder = tmp_path / "logs"
    folder.mkdir(mode=0o555)
    write(files, LogPolicy(directory=str(folder)), b"x")
    assert files.path("a", LogPolicy(directory=str(folder))).parent == tmp_path / "state" / "logs"


def test_a_failure_of_the_state_directory_itself_is_an_error(tmp_path: Path, files: OutputFiles) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(NotADirectoryError):
        files.open_for_append("a", LogPolicy())
    with pytest.raises(NotADirectoryError):
        files.open_for_append("a", LogPolicy(directory=str(tmp_path / "state" / "more")))


def test_a_new_log_directory_is_readable_like_that_of_ocs(tmp_path: Path, files: OutputFiles) -> None:
    before = os.umask(0o022)
    try:
        folder = tmp_path / "data" / "logs"
        write(files, LogPolicy(directory=str(folder)), b"x")
        write(files, LogPolicy(), b"x")
    finally:
        os.umask(before)
    assert (folder.stat().st_mode & 0o777, (folder / "a.log").stat().st_mode & 0o777) == (0o755, 0o644)
    private = tmp_path / "state" / "logs"
    assert (private.stat().st_mode & 0o777, (private / "a.log").stat().st_mode & 0o777) == (0o750, 0o640)


@pytest.fixture
def writer(tmp_path: Path, files: OutputFiles) -> Iterator[subprocess.Popen[bytes]]:
    """Return a process that has the output file of `a` open."""
    fd = files.open_for_append("a", LogPolicy())
    process = subprocess.Popen(
        [sys.executable, "-c", "print('hello', flush=True); input()"], stdin=-1, stdout=fd
    )
    os.close(fd)
    path = tmp_path / "state" / "logs" / "a.log"
    wait_until(lambda: path.read_bytes() == b"hello\n", "the first line")
    yield process
    process.communicate()


async def test_a_file_removed_while_its_process_runs_is_made_again_and_says_so(
    tmp_path: Path, files: OutputFiles, writer: subprocess.Popen[bytes]
) -> None:
    path = tmp_path / "state" / "logs" / "a.log"
    for _ in range(2):
        watched(files)
        path.unlink()
        wait_until(path.exists, "the new file")
        [line] = await lines(files, LogPolicy())
        assert line.startswith("[hostmanager: this file was removed at ")
        assert line.endswith("restart the instance, and it writes here]")
    write(files, LogPolicy(), b"again\n")
    assert (await lines(files, LogPolicy()))[-1] == "again"


def watched(files: OutputFiles, count: int = 1) -> None:
    """Wait until the rotation has looked at so many files, and thereby watches them."""
    rotator = files._rotator

    def settled() -> bool:
        entries = list(rotator._entries.values())
        return len(entries) == count and all(entry.end is not None and entry.due is None for entry in entries)

    wait_until(settled, "the first inspection")


def test_the_file_of_an_ended_process_stays_removed(
    tmp_path: Path, files: OutputFiles, writer: subprocess.Popen[bytes]
) -> None:
    path = tmp_path / "state" / "logs" / "a.log"
    watched(files)
    writer.communicate()
    path.unlink()
    other = tmp_path / "state" / "logs" / "b.log"
    with subprocess.Popen(["cat"], stdin=-1, stdout=files.open_for_append("b", LogPolicy())) as process:
        watched(files, 2)
        other.unlink()  # the watch reports removals in order
        wait_until(other.exists, "the new file of the running process")
        process.kill()
    assert not path.exists()
