"""One run of a hook command: bounded in time, output and processes."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress

from hostmanager.values import dataclass

from hostmanager_server.core.printable import printable
from hostmanager_server.core.spec import Hook, ProcessSpec
from hostmanager_server.drivers.exec.command import CommandError, prepare
from hostmanager_server.linux import child_signals

_OUTPUT_KEPT = 2000  # bytes, the last ones
_CHUNK = 65536


@dataclass(frozen=True, slots=True)
class HookOutcome:
    """The end of a hook; `problem` is empty after exit code 0."""

    seconds: float
    problem: str = ""


def run_hook(
    hook: Hook, facts: Mapping[str, str], document: bytes, inherited: Mapping[str, str], stop: int
) -> HookOutcome:
    """Run a hook and wait for its end.

    The command gets `facts` as variables and `document` on standard input. The environment, user and folder
    follow the rules for agents. What the command has left in its process group is killed at its end; so is
    the whole group after the timeout, and when the descriptor `stop` is readable. The thread must live as
    long as the command. Raises nothing.
    """
    began = time.monotonic()
    try:
        problem = _run(hook, facts, document, inherited, stop)
    except CommandError as error:
        problem = str(error)
    except (OSError, ValueError) as error:
        problem = f"cannot run {hook.argv[0]!r}: {error}"
    return HookOutcome(time.monotonic() - began, problem)


def _run(
    hook: Hook, facts: Mapping[str, str], document: bytes, inherited: Mapping[str, str], stop: int
) -> str:
    process = ProcessSpec(argv=hook.argv, working_dir=hook.working_dir, user=hook.user)
    command = prepare(process, hook.argv, inherited)
    given = os.memfd_create("hook-facts", os.MFD_CLOEXEC)
    try:
        os.write(given, document)
        os.lseek(given, 0, os.SEEK_SET)
        # Without preexec_fn and user, the standard library uses vfork: a fork beside gRPC may abort.
        with child_signals.unblocked():
            child = subprocess.Popen(
                command.argv, executable=command.program, cwd=command.working_dir,
                env={**command.env, **facts}, stdin=given, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, start_new_session=True, bufsize=0,
            )  # fmt: skip
    finally:
        os.close(given)
    assert child.stdout is not None
    with child.stdout:
        os.set_blocking(child.stdout.fileno(), False)
        why, output = _wait(child.pid, child.stdout.fileno(), stop, hook.timeout)
        # The child is not reaped yet, so the number of its group cannot belong to others.
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        code = child.wait()
        output += _read(child.stdout.fileno())
    if not why and code:
        why = f"ended with code {code}" if code > 0 else f"was killed by {signal.Signals(-code).name}"
    said = printable(output[-_OUTPUT_KEPT:].decode("utf-8", "replace").strip().replace("\n", " "))
    return f"{hook.argv[0]!r} {why}" + (f': "{said[-200:]}"' if said else "") if why else ""


def _wait(pid: int, output: int, stop: int, timeout: float) -> tuple[str, bytes]:
    """Wait for the end of the child; return why it must be killed, or "", and its last output."""
    kept = b""
    deadline = time.monotonic() + timeout
    pidfd = os.pidfd_open(pid)
    try:
        poller = select.poll()
        for fd in (pidfd, output, stop):
            poller.register(fd, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            ready = {fd for fd, _ in poller.poll(left * 1000.0 + 1.0)}
            if output in ready:
                data = _read(output)
                kept = (kept + data)[-_OUTPUT_KEPT:]
                if not data:  # closed
                    poller.unregister(output)
            if pidfd in ready:
                return "", kept
            if stop in ready:
                return "was killed, as the daemon ends", kept
        return f"was killed after {timeout:g} s", kept
    finally:
        os.close(pidfd)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, _CHUNK)
    except BlockingIOError:
        return b""
