"""Upgrade in place: this process becomes the code that is installed now.

It re-executes the command line that it was started with. The pid stays, so its children stay its children,
and whoever supervises it sees no end. What it holds in memory goes: the journal and the runtime records
carry over what matters, as after a death.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from typing import NoReturn

from hostmanager_server.linux import sd_notify
from hostmanager_server.linux.rlimits import lower_own_files
from hostmanager_server.supervisor import UpgradeError

# Set for the successor only: the number of the descriptor that holds the state directory's lock.
LOCK_VARIABLE = "HOSTMANAGER_LOCK_DESCRIPTOR"
PREFLIGHT = "--preflight"  # a flag of `serve`: print the version, and start nothing
PREFLIGHT_TIMEOUT = 30.0  # s; an import of everything takes half a second where nothing is cached

# What must not end the process between its old handlers and its new ones. It stays pending meanwhile.
HELD_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2})


def command_line() -> list[str]:
    """What starts this program anew. The interpreter by its own path, as it may have been found by PATH."""
    return [sys.executable, *sys.orig_argv[1:]]


def preflight(command: Sequence[str], environ: Mapping[str, str]) -> str:
    """The version of the code installed now. Waits for it to be imported, up to PREFLIGHT_TIMEOUT. Raises
    UpgradeError when it could not take over."""
    try:
        done = subprocess.run(
            [*command, PREFLIGHT],
            env=sd_notify.of_others(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PREFLIGHT_TIMEOUT,
            check=False,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise UpgradeError(f"{command[0]} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise UpgradeError(f"it was not done starting after {PREFLIGHT_TIMEOUT:g} s") from error
    if done.returncode != 0:
        why = done.stderr.strip().splitlines()
        raise UpgradeError(why[-1] if why else f"it ended with code {done.returncode}")
    return done.stdout.strip()


def hold_signals() -> None:
    """Keep the signals that the successor is to handle pending, from here on. On the main thread."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)


def release_signals() -> None:
    """Take what is pending, and everything from here on. On the main thread, once there are handlers."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)


def execute(command: Sequence[str], lock: int) -> NoReturn:
    """Become the program of `command`, handing over the descriptor `lock`. Raises OSError, with nothing
    running in this process any more but the caller."""
    lower_own_files()
    os.set_inheritable(lock, True)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], list(command), {**os.environ, LOCK_VARIABLE: str(lock)})


def take_lock(environ: MutableMapping[str, str]) -> int | None:
    """The lock that an earlier life of this process handed over, None when there was none. Not to be
    inherited by anybody else."""
    text = environ.pop(LOCK_VARIABLE, "")
    if not text.isdecimal():
        return None
    try:
        os.set_inheritable(int(text), False)
    except OSError:
        return None
    return int(text)
