"""Upgrade in place: the daemon's process executes the code that is installed now.

The process executes its own command line again. The pid stays, so the agents stay children of the daemon, and
systemd sees no end of the process. The memory of the process is lost: the journal and the runtime records
carry over the state, as after a crash.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from typing import NoReturn

from hostmanager_server.linux import child_signals, sd_notify
from hostmanager_server.linux.rlimits import lower_own_files
from hostmanager_server.supervisor import UpgradeError

# For the successor only: the number of the descriptor that holds the state directory's lock.
LOCK_VARIABLE = "HOSTMANAGER_LOCK_DESCRIPTOR"
PREFLIGHT = "--preflight"  # a flag of `serve`: print the version and exit
PREFLIGHT_TIMEOUT = 30.0  # s; importing all modules takes half a second with cold caches

# These signals must not end the process between the old handlers and the new ones; they stay pending.
HELD_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2})


def command_line() -> list[str]:
    """Return the command line of this process.

    The interpreter has its absolute path, as the shell may have found the program by PATH.
    """
    return [sys.executable, *sys.orig_argv[1:]]


def preflight(command: Sequence[str], environ: Mapping[str, str]) -> str:
    """Start the installed code once, and return its version.

    The call waits up to PREFLIGHT_TIMEOUT for the new process. Raises UpgradeError if the installed code
    could not take over.
    """
    try:
        with child_signals.unblocked():
            done = subprocess.run(
                [*command, PREFLIGHT],
                env=sd_notify.without_private_variables(environ),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PREFLIGHT_TIMEOUT,
                check=False,
                text=True,
                errors="replace",
            )
    except OSError as error:
        raise UpgradeError(f"cannot run {command[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise UpgradeError(f"no answer within {PREFLIGHT_TIMEOUT:g} s") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise UpgradeError(lines[-1] if lines else f"exit code {done.returncode}")
    return done.stdout.strip()


def hold_signals() -> None:
    """Hold signals pending for the successor, from here on. Call on the main thread."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)


def release_signals() -> None:
    """Deliver pending and future signals.

    Call on the main thread, once the handlers are installed.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)


def execute(command: Sequence[str], lock: int) -> NoReturn:
    """Replace this process by the program of `command`.

    The program inherits the descriptor `lock`. Raises OSError if the exec fails; the caller is then the only
    code still running in this process.
    """
    lower_own_files()
    child_signals.unblock()  # the successor may be an older version, which only handles the signal
    os.set_inheritable(lock, True)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], list(command), {**os.environ, LOCK_VARIABLE: str(lock)})


def take_lock(environ: MutableMapping[str, str]) -> int | None:
    """Return the lock descriptor from before the upgrade, or None.

    No other child process inherits the descriptor.
    """
    text = environ.pop(LOCK_VARIABLE, "")
    if not text.isdecimal():
        return None
    try:
        os.set_inheritable(int(text), False)
    except OSError:
        return None
    return int(text)
