"""The daemon's log: callers never wait, and the log counts its missing lines."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from pathlib import Path

import pytest
from hostmanager_server.daemon.log import DaemonLog
from hostmanager_server.daemon.own_log import find_own_log, journal_command

from tests.waiting import wait_until


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("x", logging.INFO, __file__, 1, text, None, None)


def test_lines_are_written_in_order_up_to_the_end() -> None:
    read_end, write_end = os.pipe()
    log = DaemonLog(write_end)
    for number in range(100):
        log.handle(record(f"line {number}"))
    log.close()
    os.close(write_end)
    with open(read_end) as file:
        assert file.read().splitlines() == [f"line {number}" for number in range(100)]


def test_lines_that_a_stalled_reader_did_not_take_are_counted() -> None:
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    log = DaemonLog(write_end, most_waiting=10)
    long = "x" * 1000
    logged = 1000
    for _ in range(logged):  # more than the pipe and the queue hold together
        log.handle(record(long))
    lines: list[str] = []
    room = threading.Event()

    def read() -> None:
        with open(read_end) as file:
            for line in file:
                lines.append(line)
                if len(lines) == 8:  # more than the pipe holds: some lines come from the queue
                    room.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert room.wait(30)
    log.handle(record("it works again"))
    log.close()
    os.close(write_end)
    reader.join()
    missing = sum(int(line.split()[0]) for line in lines if "could not be written" in line)
    assert missing > 0
    assert sum(line.startswith("x") for line in lines) + missing == logged
    assert lines[-1] == "it works again\n"


def test_a_log_that_cannot_be_written_at_all_ends_in_good_time() -> None:
    read_end, write_end = os.pipe()
    log = DaemonLog(write_end, most_waiting=1, patience=0.01)
    for _ in range(1000):
        log.handle(record("x" * 1000))
    log.close()
    os.close(read_end)  # the writing thread gets an error, and goes on
    log._thread.join()
    os.close(write_end)


def test_a_full_disk_is_no_error() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    log = DaemonLog(full)
    log.handle(record("lost"))
    log.close()
    os.close(full)


def test_no_text_forges_a_line_or_reaches_the_reader_s_terminal() -> None:
    read_end, write_end = os.pipe()
    log = DaemonLog(write_end, layout="%(levelname)s %(message)s")
    hostile = "id\nERROR forged\r\x1b]0;title\x07\x9b2J\u202e\u200b\ud800"
    log.handle(record(f"cannot start {hostile!s}"))
    try:
        raise ValueError(hostile)
    except ValueError as error:
        trouble = record("failed")
        trouble.exc_info = (ValueError, error, error.__traceback__)
    trouble.stack_info = hostile
    log.handle(trouble)
    log.close()
    os.close(write_end)
    with open(read_end, encoding="utf-8", newline="") as file:
        lines = file.read().split("\n")
    assert lines[0] == (r"INFO cannot start id\nERROR forged\r\x1b]0;title\x07\x9b2J\u202e\u200b\ud800")
    assert lines[1] == "INFO failed"
    assert lines.pop() == ""
    assert all(line.startswith("    ") for line in lines[2:])
    assert any(line.startswith("    ERROR forged") for line in lines[2:])
    assert all(line.isprintable() for line in lines)


def test_a_file_gets_all_lines_from_the_first(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    log = DaemonLog(write_end)
    log.handle(record("before the state directory is known"))
    file = os.open(tmp_path / "daemon.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    log.keep_in(file)
    log.handle(record("after"))
    log.close()
    os.close(write_end)
    os.close(read_end)
    os.close(file)
    lines = (tmp_path / "daemon.log").read_text().splitlines()
    assert lines == ["before the state directory is known", "after"]


def test_a_stalled_reader_of_stderr_keeps_no_line_from_the_file(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    os.write(write_end, b"x" * 4096)  # nobody reads
    log = DaemonLog(write_end, patience=0.01)
    file = os.open(tmp_path / "daemon.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    log.keep_in(file)
    log.handle(record("the cause"))
    wait_until(lambda: (tmp_path / "daemon.log").read_text() == "the cause\n", "the line in the file")
    os.close(read_end)  # ends the stalled write
    log.close()
    os.close(file)


@pytest.mark.parametrize(
    ("cgroup", "command"),
    [
        ("0::/system.slice/hostmanager.service\n", "journalctl -u hostmanager.service"),
        ("0::/system.slice/hostmanager.service/daemon\n", "journalctl -u hostmanager.service"),
        (
            "0::/user.slice/user-7.slice/user@7.service/app.slice/lab.service\n",
            "journalctl --user -u lab.service",
        ),
        ("1:name=systemd:/\n0::/\n", "journalctl _PID=42"),
        ("", "journalctl _PID=42"),
    ],
)
def test_the_command_for_the_journal_names_the_unit(cgroup: str, command: str) -> None:
    assert journal_command(cgroup, 42) == command


def test_only_a_stderr_of_the_journal_needs_no_file(tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("w") as stderr:
        status = os.fstat(stderr.fileno())
        stream = f"{status.st_dev}:{status.st_ino}"
        assert find_own_log(tmp_path, {"JOURNAL_STREAM": stream}, stderr.fileno()).policy is None
        for environ in ({}, {"JOURNAL_STREAM": "1:1"}):
            policy = find_own_log(tmp_path, environ, stderr.fileno()).policy
            assert policy is not None
            assert policy.directory == str(tmp_path)
