"""Sessions on the pages, run on a terminal and compared line by line."""

from __future__ import annotations

import os
import pty
import re
import shlex
from contextlib import suppress

from hostmanager_server.commands.init import FIRST_SITE

from tests.e2e.daemon import Site
from tests.e2e.test_tutorials import environment, run, save_files
from tests.repo.pages import ROOT, blocks

PAGE = ROOT / "docs" / "how-to" / "change-a-site.md"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_TIMES = re.compile(r"\(up [^)]*\)")


def session(site: Site, command_line: str, answer: str) -> str:
    """Run a command line on a terminal, give an answer to its question, and return the screen."""
    pid, terminal = pty.fork()
    if pid == 0:
        with suppress(BaseException):
            os.chdir(site.folder)
            words = shlex.split(command_line)
            os.execvpe(words[0], words, {**environment(site), "COLUMNS": "120", "TERM": "dumb"})
        os._exit(127)
    screen = b""
    with suppress(OSError):  # the end of the terminal
        while data := os.read(terminal, 4096):
            screen += data
            if answer and screen.endswith(b"[y/N]: "):
                os.write(terminal, f"{answer}\n".encode())
                answer = ""
    os.close(terminal)
    os.waitpid(pid, 0)
    return _COLOURS.sub("", screen.decode()).replace("\r\n", "\n")


def stable(text: str) -> list[str]:
    """Return the lines without what differs from run to run."""
    return [_TIMES.sub("(up …)", line.rstrip()) for line in text.splitlines()]


def test_a_reload_that_would_stop_something_says_so_and_asks(site: Site) -> None:
    site.file.write_text(FIRST_SITE)
    site.file.chmod(0o600)
    site.start()
    run(site, "hostmanager up heater --wait")
    save_files(PAGE, site.folder)
    for block in blocks(PAGE):
        if block.language == "console":
            command_line, _, expected = block.text.removeprefix("$ ").partition("\n")
            answer = "n" if "[y/N]: n\n" in expected else ""
            assert stable(session(site, command_line, answer)) == stable(expected), command_line
