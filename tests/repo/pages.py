"""Pages of this repository, and the examples in the pages."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("**/*.md"))]

_FENCE = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_PROMPT = re.compile(r"^[$#] ")
_SHELL = ("", "sh", "console")


@dataclass(frozen=True, slots=True)
class Example:
    """A fenced block of a page."""

    page: Path
    line: int  # counted from 1
    language: str
    text: str

    def __str__(self) -> str:
        return f"{name(self.page)}:{self.line}"


def name(page: Path) -> str:
    """Return the path of a page below the root."""
    return str(page.relative_to(ROOT))


def examples(*languages: str, pages: list[Path] = PAGES) -> list[Example]:
    """Return the fenced blocks in these languages, in order."""
    return [block for page in pages for block in blocks(page) if block.language in languages]


def blocks(page: Path) -> Iterator[Example]:
    """Yield every fenced block of a page."""
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        yield Example(page, text.count("\n", 0, match.start()) + 1, match[2], match[3])


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def command_lines(example: Example) -> list[str]:
    """Return the command lines of a shell example, without output.

    Continuation lines are joined.
    """
    lines = example.text.replace("\\\n", " ").splitlines()
    if example.language == "console":
        return [_PROMPT.sub("", line) for line in lines if _PROMPT.match(line)]
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def words(command_line: str) -> list[list[str]]:
    """Return the words of each simple command in a command line, without comments."""
    lexer = shlex.shlex(command_line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    commands: list[list[str]] = [[]]
    for token in lexer:
        if set(token) <= set("|&;"):
            commands.append([])
        else:
            commands[-1].append(token)
    return [command for command in commands if command]


def shell_examples(pages: list[Path] = PAGES) -> list[Example]:
    """Return the blocks with commands for a shell."""
    return examples(*_SHELL, pages=pages)


def commands_of(program: str, pages: list[Path] = PAGES) -> list[tuple[str, list[str]]]:
    """Return each call of a program in the shell examples.

    A call is the place of the example, and the words after the program.
    """
    return [
        (str(example), command[1:])
        for example in shell_examples(pages)
        for line in command_lines(example)
        if program in line
        for command in words(line)
        if command[0].rpartition("/")[2] == program
    ]
