"""Starts without a shell, and the reasons for which a program could not be executed."""

from __future__ import annotations

import errno
import logging
import os
from contextlib import suppress

from hostmanager.values import replace

from hostmanager_server.drivers.exec import gate
from hostmanager_server.drivers.exec.command import CommandError, ExecCommand
from hostmanager_server.linux.spawning import (
    Heritage,
    Program,
    Spawner,
    SpawnError,
    SpawnUnavailableError,
    Step,
)

_SHELL = "/bin/sh"
_HEAD = 256  # bytes of a program that the kernel reads to find out its kind
_ELF = b"\x7fELF"
_log = logging.getLogger(__name__)


def load_spawner() -> Spawner | None:
    """Return a tried spawner; None where agents must start through a shell.

    Raises OSError for a lack of descriptors or memory.
    """
    spawner = None
    try:
        spawner = Spawner()
        try:
            spawner.spawn(Program(path="", argv=[""]), Heritage(output=spawner.null))
        except SpawnError as error:
            if error.step is Step.EXEC:
                return spawner
            raise
        raise AssertionError("an empty path cannot be executed")
    except SpawnUnavailableError as error:
        _log.info("agents start through a shell, which takes longer: %s", error)
    if spawner is not None:
        spawner.close()
    return None


def spawn(spawner: Spawner, command: ExecCommand, heritage: Heritage) -> tuple[int, int]:
    """Start a child that executes `command`, and return the pid and a pidfd, which the caller closes.

    A text file without "#!" runs in a shell, as from a shell. Raises CommandError, SpawnError (for the step
    LIMIT), other OSErrors and ValueError.
    """
    if command.runs:
        _check_script(command.runs, command.working_dir)
    program = Program(
        path=command.program, argv=command.argv, env=command.env, working_dir=command.working_dir,
        umask=command.umask, nice=command.nice,
    )  # fmt: skip
    try:
        return spawner.spawn(program, heritage)
    except SpawnError as error:
        if error.errno != errno.ENOEXEC or not _is_text(command.program, command.working_dir):
            raise _explained(error, command) from error
    argv = [_SHELL, command.program, *command.argv[1:]]
    try:
        return spawner.spawn(replace(program, path=_SHELL, argv=argv), heritage)
    except SpawnError as error:
        raise _explained(error, command) from error


def check_executable(command: ExecCommand) -> None:
    """Raise CommandError for a program that the kernel would refuse to execute.

    For starts through another program, which cannot report the refusal.
    """
    program = command.runs or command.program
    _check_script(program, command.working_dir)


def _explained(error: SpawnError, command: ExecCommand) -> Exception:
    match error.step:
        case Step.DIRECTORY:
            return CommandError(
                f"cannot enter its working directory '{command.working_dir}': {error.strerror}; "
                "change 'working-dir' or its mode"
            )
        case Step.NICE:
            return CommandError(gate.refused_nice(command.nice, error))
        case Step.EXEC if error.errno not in (errno.E2BIG, errno.ENOMEM, errno.EAGAIN, errno.EIO):
            why = _why_not_executed(error, command.program, command.working_dir)
            return CommandError(f"cannot execute '{command.program}': {why}")
        case _:
            return error


def _why_not_executed(error: OSError, program: str, working_dir: str) -> str:
    path = os.path.join(working_dir, program)
    head = _head(path)
    interpreter = _interpreter(head)
    match error.errno:
        case errno.ENOENT if interpreter is not None and os.path.exists(path):
            return _missing(interpreter)
        case errno.ENOENT if head.startswith(_ELF):
            return "its loader (the ELF interpreter) does not exist; install the program for this system"
        case errno.EACCES if interpreter is not None and os.access(path, os.X_OK):
            return _not_executable(interpreter)
        case errno.ENOEXEC:
            return "the file is no program of this machine; install one for its processor"
        case errno.ETXTBSY:
            return "another process has the file open for writing; start the instance again later"
        case errno.ELOOP if interpreter is not None:
            return f"its interpreter {_shown(interpreter)} needs too many others; correct its first line"
        case _:
            return (error.strerror or str(error)).lower()


def _check_script(program: str, working_dir: str) -> None:
    path = os.path.join(working_dir, program)
    head = _head(path)
    interpreter = _interpreter(head)
    if interpreter is None:
        return
    found = os.path.join(working_dir, interpreter)
    if not os.path.exists(found):
        raise CommandError(f"cannot execute '{program}': {_missing(interpreter)}")
    if not os.access(found, os.X_OK):
        raise CommandError(f"cannot execute '{program}': {_not_executable(interpreter)}")


def _missing(interpreter: str) -> str:
    advice = "save the file with Unix line ends" if interpreter.endswith("\r") else "correct its first line"
    return f"its interpreter {_shown(interpreter)} does not exist; {advice}"


def _not_executable(interpreter: str) -> str:
    return f"its interpreter {_shown(interpreter)} is not executable; correct its first line"


def _shown(path: str) -> str:
    return "'" + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in path) + "'"


def _interpreter(head: bytes) -> str | None:
    """Return the interpreter that the first line of a script names, as the kernel reads the line."""
    if not head.startswith(b"#!"):
        return None
    line = head[2:].split(b"\n", 1)[0].strip(b" \t")
    return os.fsdecode(line.replace(b"\t", b" ").split(b" ", 1)[0])


def _is_text(program: str, working_dir: str) -> bool:
    """Return whether a file may be a script without a first line that names an interpreter."""
    head = _head(os.path.join(working_dir, program))
    return not head.startswith(b"#!") and b"\0" not in head


def _head(path: str) -> bytes:
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            return os.read(descriptor, _HEAD)
        finally:
            os.close(descriptor)
    return b""
