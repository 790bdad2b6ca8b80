"""`hostmanager demo`: it shows what it says, and leaves nothing behind."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemon import COMMAND, eventually, marked

TOOK_TOO_LONG = 110.0  # s

# Takes its standard input for its controlling terminal, which Popen cannot do, and becomes the command.
ON_A_TERMINAL = (
    "import os, sys; os.close(os.open(os.ttyname(0), os.O_RDWR)); os.execv(sys.argv[1], sys.argv[1:])"
)


class Demo:
    """One run of the demo; what it started is known by a variable in its environment."""

    def __init__(self, folder: Path, *arguments: str, terminal: bool = False) -> None:
        self.mark = folder / "mark"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self._output = bytearray()
        self._master, slave = pty.openpty() if terminal else os.pipe()
        command = [str(COMMAND), "demo", *arguments]
        self._process = subprocess.Popen(
            [sys.executable, "-c", ON_A_TERMINAL, *command] if terminal else command,
            env=os.environ | {"TEST_SITE": str(self.mark), "TMPDIR": str(self.temporary), "COLUMNS": "160"},
            stdin=slave if terminal else subprocess.DEVNULL,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with open(self._master, "rb", buffering=0) as output:
            while True:
                try:
                    piece = output.read(65536)
                except OSError:  # how a pseudo-terminal says that nobody has it open any more
                    return
                if not piece:
                    return
                self._output += piece

    @property
    def output(self) -> str:
        """What it has printed, without colours."""
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self._output.decode(errors="replace"))

    def signal(self, signum: int) -> None:
        self._process.send_signal(signum)

    def type(self, keys: bytes) -> None:
        """Type on its terminal."""
        os.write(self._master, keys)

    def wait(self) -> int:
        code = self._process.wait(TOOK_TOO_LONG)
        self._reader.join(TOOK_TOO_LONG)
        return code

    def leftovers(self) -> list[int]:
        return marked(self.mark)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pid in self.leftovers():
            os.kill(pid, signal.SIGKILL)
        self._reader.join(TOOK_TOO_LONG)


@pytest.fixture
def demos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Demo]]:
    """Demos that a test has started; they are ended after it, whatever became of it."""
    started: list[Demo] = []
    yield started
    for demo in started:
        demo.kill()


def test_off_a_terminal_it_gives_the_tour(demos: list[Demo], tmp_path: Path) -> None:
    demo = Demo(tmp_path)
    demos.append(demo)
    assert demo.wait() == 0, demo.output
    assert demo.leftovers() == []
    assert list(demo.temporary.iterdir()) == []
    titles = re.findall(r"^=== \d\. (.*)$", demo.output, re.MULTILINE)
    assert len(titles) == 6
    assert "SIGKILL" in demo.output
    assert "restart required" in demo.output
    assert "no process and no file is left behind" in demo.output


def test_on_a_terminal_ctrl_c_ends_it_and_leaves_nothing_behind(demos: list[Demo], tmp_path: Path) -> None:
    demo = Demo(tmp_path, terminal=True)
    demos.append(demo)
    eventually(lambda: re.search(r"scanner .* up +up ", demo.output), "the live table to show the lab up")
    assert len(demo.leftovers()) > 10
    demo.type(b"\x03")
    assert demo.wait() == 0, demo.output
    assert demo.leftovers() == []
    assert list(demo.temporary.iterdir()) == []
    assert "no process and no file is left behind" in demo.output


def test_an_impatient_second_ctrl_c_leaves_nothing_behind_either(demos: list[Demo], tmp_path: Path) -> None:
    demo = Demo(tmp_path, terminal=True)
    demos.append(demo)
    eventually(lambda: re.search(r"readout .* up +up ", demo.output), "the live table to show the lab up")
    demo.type(b"\x03")
    eventually(lambda: "bringing everything down" in demo.output, "the demo to begin to end")
    demo.type(b"\x03")
    assert demo.wait() == 0, demo.output
    assert demo.leftovers() == []
    assert list(demo.temporary.iterdir()) == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_whatever_ends_the_tour_nothing_is_left_behind(
    demos: list[Demo], tmp_path: Path, signum: signal.Signals
) -> None:
    demo = Demo(tmp_path)
    demos.append(demo)
    eventually(lambda: "it listens on" in demo.output, "the demo to begin")
    demo.signal(signum)
    assert demo.wait() == 128 + signum
    assert demo.leftovers() == []
    assert list(demo.temporary.iterdir()) == []


def test_a_step_that_fails_is_said_and_everything_is_brought_down(demos: list[Demo], tmp_path: Path) -> None:
    demo = Demo(tmp_path)
    demos.append(demo)
    eventually(lambda: "it listens on" in demo.output, "the demo to begin")
    (daemon,) = [pid for pid in demo.leftovers() if b"serve" in _command_line(pid)]
    os.kill(daemon, signal.SIGKILL)
    assert demo.wait() not in (0, -signal.SIGKILL)
    assert "Error: " in demo.output
    assert "Traceback" not in demo.output
    assert demo.leftovers() == []
    assert list(demo.temporary.iterdir()) == []


def _command_line(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


def test_the_help_says_what_it_does() -> None:
    done = subprocess.run([COMMAND, "demo", "--help"], capture_output=True, text=True, check=True)
    assert "nothing is left behind" in " ".join(done.stdout.split())
    assert sys.executable not in done.stdout
