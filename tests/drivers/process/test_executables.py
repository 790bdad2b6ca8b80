"""Programs that the kernel refuses to execute, and those that it executes in its own way."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hostmanager_server.core.events import Exited, ExitStatus, RunKey, StartFailed
from hostmanager_server.drivers.exec import direct
from hostmanager_server.linux.spawning import LIBRARY

if TYPE_CHECKING:
    from tests.drivers.conftest import ProcessHarness

A = RunKey("a", 1)
needs_library = pytest.mark.skipif(not LIBRARY.exists(), reason="the library of starts was not built")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may switch users")
ABSENT = "does not exist"
MISSING = [
    (
        b"#!/bin/sh\r\necho up\r\n",
        rf"'/bin/sh\r' {ABSENT}; save the file with Unix line ends",
    ),
    (
        b"#! /no/such/program -x\n",
        f"'/no/such/program' {ABSENT}; correct its first line",
    ),
]
REFUSED = [
    (b"#!/etc/passwd\n", "its interpreter '/etc/passwd' is not executable; correct its first line"),
    (b"\x7fELF\0of another machine", "the file is no program of this machine; install one for its processor"),
    (b"#!./x\n", "its interpreter './x' needs too many others; correct its first line"),
]


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the daemon start agents through the gate; name this fixture before `real`."""
    monkeypatch.setattr(direct, "load_spawner", lambda: None)


def failure(real: ProcessHarness, content: bytes) -> str:
    program = real.directory / "x"
    program.write_bytes(content)
    program.chmod(0o755)
    start(real, "./x")
    assert [type(event) for event in real.events] == [StartFailed]
    failed = real.events[0]
    assert isinstance(failed, StartFailed)
    assert real.records() == []
    assert not real.alive("a")
    return failed.why


def start(real: ProcessHarness, *argv: str) -> None:
    spec = real.command("a", *argv)
    assert spec.process is not None
    real.driver.launch(A, replace(spec, process=replace(spec.process, working_dir=str(real.directory))))


@pytest.mark.parametrize(("content", "why"), MISSING)
def test_a_missing_interpreter_fails_the_start(real: ProcessHarness, content: bytes, why: str) -> None:
    assert failure(real, content) == f"cannot start 'a': cannot execute './x': its interpreter {why}"


@pytest.mark.parametrize(("content", "why"), MISSING)
def test_a_missing_interpreter_fails_the_start_in_the_gate(
    gated: None, real: ProcessHarness, content: bytes, why: str
) -> None:
    assert failure(real, content) == f"cannot start 'a': cannot execute './x': its interpreter {why}"


def test_an_interpreter_that_is_not_executable_fails_the_start_in_the_gate(
    gated: None, real: ProcessHarness
) -> None:
    content, why = REFUSED[0]
    assert failure(real, content) == f"cannot start 'a': cannot execute './x': {why}"


@as_root
def test_a_missing_interpreter_fails_the_start_as_another_user(real: ProcessHarness) -> None:
    program = real.directory / "x"
    program.write_bytes(MISSING[0][0])
    program.chmod(0o755)
    spec = real.command("a", str(program))
    assert spec.process is not None
    real.driver.launch(A, replace(spec, process=replace(spec.process, user="nobody")))
    assert [type(event) for event in real.events] == [StartFailed]
    assert f"its interpreter {MISSING[0][1]}" in real.events[0].why  # type: ignore[union-attr]  # a StartFailed


@needs_library
@pytest.mark.parametrize(("content", "why"), REFUSED)
def test_what_the_kernel_refuses_to_execute_fails_the_start(
    real: ProcessHarness, content: bytes, why: str
) -> None:
    assert failure(real, content) == f"cannot start 'a': cannot execute './x': {why}"


@needs_library
def test_a_program_that_is_being_written_fails_the_start(real: ProcessHarness) -> None:
    program = real.directory / "x"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o755)
    with program.open("ab"):
        start(real, "./x")
    assert "another process has the file open for writing" in real.events[0].why  # type: ignore[union-attr]  # a StartFailed


@pytest.mark.parametrize("content", ["echo $0-$1 > out; exit 7", "#!/bin/sh\necho $0-$1 > out; exit 7"])
def test_a_script_runs_with_or_without_a_first_line(real: ProcessHarness, content: str) -> None:
    program = real.directory / "x"
    program.write_text(content)
    program.chmod(0o755)
    start(real, "./x", "b")
    real.wait_for(lambda: any(isinstance(event, Exited) for event in real.events))
    assert [event.status for event in real.events if isinstance(event, Exited)] == [ExitStatus(code=7)]
    assert (real.directory / "out").read_text() == "./x-b\n"


@needs_library
@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every directory")
def test_a_working_directory_without_the_right_to_enter_fails_the_start(real: ProcessHarness) -> None:
    real.directory.joinpath("closed").mkdir(mode=0o600)
    spec = real.command("a", "true")
    assert spec.process is not None
    inside = str(real.directory / "closed")
    real.driver.launch(A, replace(spec, process=replace(spec.process, working_dir=inside)))
    assert f"cannot enter its working directory '{inside}': Permission denied" in real.events[0].why  # type: ignore[union-attr]  # a StartFailed
