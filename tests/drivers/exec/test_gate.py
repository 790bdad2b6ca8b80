"""The gate alone: its note of the release."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
from hostmanager_server.drivers.exec import gate


def release(tmp_path: Path, flag: int, limit: int = resource.RLIM_INFINITY) -> int:
    """Return the wait status of `true` behind a gate with this flag descriptor."""
    with (tmp_path / "record").open("rb") as lock, open(os.devnull, "wb") as output:
        child = gate.spawn(["true"], "/", dict(os.environ), output.fileno(), lock.fileno(), flag)
    resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (limit, limit))
    child.release()
    os.close(child.descriptor)
    return os.waitpid(child.pid, 0)[1]


@pytest.fixture
def flag(tmp_path: Path) -> int:
    (tmp_path / "record").write_text("0")
    return os.open(tmp_path / "record", os.O_WRONLY | os.O_CLOEXEC)


def test_the_gate_notes_its_release(tmp_path: Path, flag: int) -> None:
    assert release(tmp_path, flag) == 0
    os.close(flag)
    assert (tmp_path / "record").read_text() == "1"


def test_the_gate_notes_its_release_on_a_flag_with_the_lock_s_number(tmp_path: Path, flag: int) -> None:
    number = gate.lock_descriptor()
    os.dup2(flag, number, inheritable=False)
    os.close(flag)
    assert release(tmp_path, number) == 0
    os.close(number)
    assert (tmp_path / "record").read_text() == "1"


def test_an_agent_with_file_size_limit_zero_starts(tmp_path: Path, flag: int) -> None:
    assert release(tmp_path, flag, limit=0) == 0
    os.close(flag)
    assert (tmp_path / "record").read_text() == "0"
