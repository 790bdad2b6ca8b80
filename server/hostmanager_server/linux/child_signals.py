"""SIGCHLD as a descriptor, which wakes only the thread that reads it.

Python runs signal handlers on the first thread. A handler of SIGCHLD therefore wakes this thread at each end
of a child, and takes the interpreter from the thread that handles the end, which costs a third of a
millisecond. A blocked signal wakes no thread, and signalfd(2) shows it to the loop that sleeps anyway.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_MASK_BYTES = 128  # sizeof(sigset_t) of glibc and musl
_SIGNALS = 1 << 12  # bytes of a read; a pending SIGCHLD stands for any number of ended children

_libc = ctypes.CDLL(None, use_errno=True)


def block() -> None:
    """Block SIGCHLD in this thread, and in the threads that it starts later.

    Call on the first thread before others start: any thread that lets the signal through gets it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})


def open_descriptor() -> int | None:
    """Return a descriptor that is readable while the blocked SIGCHLD is pending; the caller closes it.

    Returns None where the C library or a filter of system calls lacks signalfd.
    """
    mask = ctypes.create_string_buffer(_MASK_BYTES)
    try:
        _libc.sigemptyset(mask)
        _libc.sigaddset(mask, signal.SIGCHLD)
        descriptor = int(_libc.signalfd(-1, mask, os.O_NONBLOCK | os.O_CLOEXEC))
    except AttributeError:
        return None
    return None if descriptor < 0 else descriptor


def clear(descriptor: int) -> None:
    """Take the pending signal, so that the descriptor is readable only after the next."""
    with suppress(BlockingIOError):
        os.read(descriptor, _SIGNALS)


def unblock() -> None:
    """Let this thread, and a program that it executes, receive SIGCHLD again."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


@contextmanager
def unblocked() -> Iterator[None]:
    """Let programs that this thread starts in the block receive SIGCHLD.

    A program inherits the mask of the thread that starts it, and a shell that waits for a child with SIGCHLD
    blocked may wait for ever. A signal that arrives meanwhile reaches the handler of the first thread.
    """
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
