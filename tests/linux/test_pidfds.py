"""Process identities and pidfds."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace

import pytest
from hostmanager_server.core.events import ExitStatus
from hostmanager_server.drivers.process.records.files import file_name
from hostmanager_server.linux import pidfds

STAT = (
    "12 ({name}) {state} 3 4 5 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 {threads} 0 777 0 0" + " 0" * 27 + " 2304\n"
)


def stat(name: str = "sh", state: str = "S", flags: int = 0, threads: int = 1) -> pidfds.Stat:
    return pidfds.parse_stat(STAT.format(name=name, state=state, flags=flags, threads=threads).encode())


@pytest.mark.parametrize("name", ["sh", "a b", ") S 1 (", "x) R 9 9 9", "\n"])
def test_a_command_name_cannot_forge_its_stat(name: str) -> None:
    found = stat(name)
    assert (found.state, found.parent, found.session, found.start) == ("S", 3, 5, 777)
    assert found.wait_status == 2304


@pytest.mark.parametrize(
    ("state", "threads", "alive"),
    [("R", 1, True), ("D", 1, True), ("Z", 1, False), ("Z", 2, True), ("X", 1, False)],
)
def test_which_states_count_as_alive(state: str, threads: int, *, alive: bool) -> None:
    assert stat(state=state, threads=threads).alive is alive


def test_kernel_threads_are_known() -> None:
    assert stat(flags=0x00208040).kernel_thread
    assert not stat(flags=0x00400100).kernel_thread


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (0, ExitStatus(code=0)),
        (3 << 8, ExitStatus(code=3)),
        (9, ExitStatus(signal=9)),
        (0x80 | 11, ExitStatus(signal=11, core_dumped=True)),
        (25, ExitStatus(signal=25, limit="fsize")),
        (0x80 | 24, ExitStatus(signal=24, core_dumped=True, limit="cpu")),
    ],
)
def test_wait_statuses(status: int, expected: ExitStatus) -> None:
    assert pidfds.decode_wait_status(status) == expected


def test_an_identity_opens_its_process_and_no_other() -> None:
    child = subprocess.Popen(["sleep", "1000"])
    pidfd = os.pidfd_open(child.pid)
    try:
        identity = pidfds.identify(child.pid, pidfd)
        assert identity is not None
        again = pidfds.open_verified(identity)
        assert again is not None
        os.close(again)
        assert pidfds.open_verified(replace(identity, start=identity.start + 1)) is None
        assert pidfds.open_verified(replace(identity, boot_id="another")) is None
        assert pidfds.open_verified(replace(identity, pid=os.getpid())) is None
    finally:
        child.kill()
        child.wait()
    assert pidfds.open_verified(identity) is None
    assert not pidfds.exists(pidfd)
    assert not pidfds.send_signal(pidfd, 0)
    os.close(pidfd)


def test_a_child_has_the_same_identity_by_the_shorter_way() -> None:
    with subprocess.Popen(["sleep", "1000"]) as child:
        pidfd = os.pidfd_open(child.pid)
        try:
            assert pidfds.identify_child(child.pid, pidfd) == pidfds.identify(child.pid, pidfd)
        finally:
            os.close(pidfd)
            child.kill()


def test_the_status_of_a_reaped_process_is_known_from_its_pidfd() -> None:
    child = subprocess.Popen(["sh", "-c", "exit 5"])
    pidfd = os.pidfd_open(child.pid)
    identity = pidfds.identify(child.pid, pidfd)
    assert identity is not None
    assert pidfds.has_ended(pidfd, 10_000)
    assert pidfds.exit_status_of_non_child(identity, pidfd) == ExitStatus(code=5)  # a zombie
    child.wait()
    # From Linux 6.15; older kernels report nothing.
    assert pidfds.exit_status_of_non_child(identity, pidfd) in (ExitStatus(code=5), ExitStatus())
    os.close(pidfd)


def test_every_instance_id_has_a_file_name_of_its_own() -> None:
    ids = ["a", "A", "a/b", "a%2Fb", ".", "..", "", "x" * 181, "x" * 182, "y" * 1_000, "ü", "a.json", "\n"]
    names = [file_name(name) for name in ids]
    assert len(set(names)) == len(ids)
    assert all("/" not in name and len(name) < 200 for name in names)
