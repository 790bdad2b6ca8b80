"""A terminal emulator around a command: the screen that a person would see."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import pyte

from tests.waiting import wait_until

# The command makes the terminal its controlling terminal. A `preexec_fn` of Popen would fork beside the gRPC
# server of the test, whose fork handlers can break the child.
_TAKE_TERMINAL = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
COMMAND = (sys.executable, "-c", f"{_TAKE_TERMINAL}from hostmanager_client.cli import main; main()")

_END = b"\0\0\0"  # which terminals ignore


class Emulator:
    """A command on a terminal of its own, which is its controlling terminal."""

    def __init__(
        self, words: Sequence[str], columns: int = 80, lines: int = 24, env: dict[str, str] | None = None
    ) -> None:
        self.raw = bytearray()
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        self._master, terminal = pty.openpty()
        self.resize(columns, lines)
        self.settings = termios.tcgetattr(terminal)
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        environment |= {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **(env or {})}
        self.process = subprocess.Popen(
            [*COMMAND, *words], stdin=terminal, stdout=terminal, stderr=terminal, env=environment,
            start_new_session=True,
        )  # fmt: skip
        self._terminal = terminal
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._terminal)
        self._reader.join(30)
        os.close(self._master)

    @property
    def lines(self) -> list[str]:
        """The lines of the screen, without the spaces at their ends."""
        with self._lock:
            return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def sees(self, *texts: str) -> None:
        """Wait until the screen shows all these texts."""
        self._wait(lambda: all(text in self.text for text in texts), f"{texts}")

    def sees_no(self, text: str) -> None:
        self._wait(lambda: text not in self.text, f"no {text!r}")

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        with self._lock:
            self._screen.resize(lines, columns)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def ends(self, signum: int | None = None) -> int:
        """Send a signal, if any, and return the exit code of the command."""
        if signum is not None:
            self.process.send_signal(signum)
        code = self.process.wait(60)
        os.write(self._terminal, _END)  # follows all output of the command
        wait_until(lambda: self.raw.endswith(_END), "the end of the output")
        return code

    def is_restored(self) -> bool:
        """Return whether the terminal has its settings, its first screen and a visible cursor again."""
        output = bytes(self.raw)
        normal_screen = output.rfind(b"\x1b[?1049l") >= output.rfind(b"\x1b[?1049h")
        cursor = output.rfind(b"\x1b[?25h") >= output.rfind(b"\x1b[?25l")
        return normal_screen and cursor and termios.tcgetattr(self._terminal) == self.settings

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        try:
            wait_until(condition, what, timeout=30)
        except AssertionError as error:
            raise AssertionError(f"{error}; the screen is\n{self.text}") from None

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # the terminal is closed
                return
            if not data:
                return
            with self._lock:
                self.raw += data
                self._stream.feed(data)
