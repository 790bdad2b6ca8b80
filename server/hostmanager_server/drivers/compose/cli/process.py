"""Calls of the compose program, one thread each."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from enum import Enum

from hostmanager_server.drivers.compose.cli.slots import Slots
from hostmanager_server.drivers.contract import CallSoon
from hostmanager_server.linux import child_signals
from hostmanager_server.linux.thread_names import name_this_thread

# An image may be large and a registry slow, but compose prints some progress every now and then.
PROGRESS_TIMEOUT = 300.0  # s without output from compose before the call is killed
_LONGEST_WAIT = 7 * 24 * 3600.0  # s; poll(2) counts milliseconds in 32 bits
_OUTPUT_KEPT = 64 * 1024  # bytes of output kept for the error message
_MESSAGE_LINES = 10

# Overrides settings that users may have made for their own calls.
_ENVIRONMENT = {
    "COMPOSE_ANSI": "never",
    "COMPOSE_IGNORE_ORPHANS": "1",
    "COMPOSE_REMOVE_ORPHANS": "0",
    "COMPOSE_MENU": "0",
}

# Progress, such as ` Container lab-ocs-a-1  Starting`, or of v1 `Creating lab_ocs-a_1 ... done`.
_PROGRESS = re.compile(
    r"""\s*(?:Container|Network|Volume|Image|Service)?\s*\S+\s+
        (?:Creating|Created|Recreate|Recreated|Starting|Started|Stopping|Stopped|Removing|Removed|Running
          |Waiting|Healthy|Exited|Killing|Killed|Pulling|Pulled|Building|Built)\s*
        |(?:Creating|Recreating|Starting|Stopping|Removing|Going\ to\ remove)\ .*
        |\s*(?:[0-9a-f]{12}|\S+)\ (?:Pulling\ fs\ layer|Waiting|Downloading|Extracting|Verifying\ Checksum
          |Download\ complete|Pull\ complete|Already\ exists)\b.*""",
    re.VERBOSE,
)


def error_message(output: str) -> str:
    """Return the error in compose's output, without progress lines.

    Empty for an output without an error.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip() and not _PROGRESS.fullmatch(line)]
    engine = [line for line in lines if line.startswith(("Error", "ERROR"))]
    return "; ".join(dict.fromkeys((engine or lines)[-_MESSAGE_LINES:]))


class CallKind(Enum):
    """The kinds of calls, each with slots of its own, so that no kind waits for another."""

    START = "start"
    STOP = "stop"


# Young calls, and calls in all, at once.
_SLOTS = {CallKind.START: (4, 64), CallKind.STOP: (4, 64)}


class ComposeCall:
    """One call of compose."""

    def __init__(self, slots: Slots | None = None) -> None:
        self._slots = slots
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._interrupted = False

    def interrupt(self) -> None:
        """Make compose end as by Ctrl-C; the call ends shortly afterwards. Thread-safe."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Kill compose at once. Thread-safe."""
        self._end(signal.SIGKILL)

    def _end(self, signum: int) -> None:
        with self._lock:
            self._interrupted = True
            if self._process is not None:
                _signal(self._process, signum)
        if self._slots is not None:
            self._slots.wake()

    def run(
        self, argv: Sequence[str], working_dir: str, environ: Mapping[str, str], progress_timeout: float
    ) -> str:
        """Wait for a slot, and run compose to its end; return why the call failed, or "".

        Call once.

        `progress_timeout` is the longest time (s) without output before compose is killed.
        """
        if self._slots is None:
            return self._run(argv, working_dir, environ, progress_timeout)
        with self._slots.slot(self._was_interrupted) as given:
            if not given:
                return "interrupted before compose was started"
            return self._run(argv, working_dir, environ, progress_timeout)

    def _run(
        self, argv: Sequence[str], working_dir: str, environ: Mapping[str, str], progress_timeout: float
    ) -> str:
        with self._lock:
            if self._interrupted:
                return "interrupted before compose was started"
            try:
                with child_signals.unblocked():
                    self._process = subprocess.Popen(
                        argv, cwd=working_dir, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT, start_new_session=True,
                    )  # fmt: skip
            except OSError as error:
                return f"cannot run {argv[0]}: {error.strerror}: {error.filename}"
        process = self._process
        output, in_time = _read_output(process, progress_timeout)
        if not in_time:
            _signal(process, signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:  # only after this wait may another process get the pid, so `kill` takes the lock
            code = process.wait()
            self._process = None
        text = error_message(output.decode(errors="replace"))
        if not in_time:
            last = f"its last output: {text or '-'}"
            return f"compose made no progress for {progress_timeout:g} s and was ended; {last}"
        if code == 0:
            return ""
        if self._was_interrupted():
            return "interrupted"
        return text or f"compose ended with code {code} and no message"

    def _was_interrupted(self) -> bool:
        with self._lock:
            return self._interrupted


class ComposeCalls:
    """Running calls, one thread each; the caller decides which calls may overlap."""

    def __init__(
        self, call_soon: CallSoon, environ: Mapping[str, str], *, progress_timeout: float = PROGRESS_TIMEOUT
    ):
        self._call_soon = call_soon
        self._environ = {**environ, **_ENVIRONMENT}
        self._progress_timeout = progress_timeout
        self._slots = {kind: Slots(*size) for kind, size in _SLOTS.items()}
        self._running: set[ComposeCall] = set()

    def start(
        self,
        kind: CallKind,
        argv: Sequence[str],
        working_dir: str,
        done: Callable[[str], None],
        *,
        stop_grace: float = 0.0,
    ) -> ComposeCall:
        """Begin a call in `working_dir`, as soon as a slot of its kind is free.

        `done` is called on the supervisor thread with the reason of a failure, or the empty string. Compose
        prints nothing while a container ends, which may take `stop_grace` s (math.inf: without end).
        """
        call = ComposeCall(self._slots[kind])
        self._running.add(call)

        def finish(error: str) -> None:
            self._running.discard(call)
            done(error)

        def run_call() -> None:
            name_this_thread("compose")
            error = call.run(argv, working_dir, self._environ, self._progress_timeout + stop_grace)
            self._call_soon(lambda: finish(error))

        # No pool: the standard library's pool would block the daemon's exit while compose waits for an
        # engine.
        threading.Thread(target=run_call, name="compose", daemon=True).start()
        return call

    def close(self) -> None:
        """Kill all running calls.

        The next daemon continues their work. A call that waits for an engine must not act on outdated
        requests later.
        """
        for call in self._running:
            call.kill()


def _read_output(process: subprocess.Popen[bytes], progress_timeout: float) -> tuple[bytes, bool]:
    """Return the last part of the output, and False after too long a silence."""
    assert process.stdout is not None
    output = b""
    with process.stdout as pipe:
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        while poll.poll(min(progress_timeout, _LONGEST_WAIT) * 1000):
            chunk = os.read(pipe.fileno(), 65536)
            if not chunk:
                return output, True
            output = (output + chunk)[-_OUTPUT_KEPT:]
    return output, False


def _signal(process: subprocess.Popen[bytes], signum: int) -> None:
    """Signal the whole process group.

    The docker program runs its compose plugin as a child.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signum)
