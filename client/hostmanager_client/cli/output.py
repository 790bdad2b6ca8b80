"""Everything that the command line prints passes here, and is harmless to the terminal after.

Commands call `say`, `print_lines`, `print_json` and `print_log`. `protect_terminals` stands behind them: all
other output (of click, the commands of other packages, tracebacks) passes the same filter on its way to a
terminal.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable
from typing import IO, Any, TextIO, cast

import click

from hostmanager_client.cli.escape import StyleBounds, escape_keep_colours, json_escape


class TerminalWriter(io.TextIOWrapper):
    """A text stream to a terminal: shows as escapes what could harm that, and ends colours with the line."""

    def __init__(self, terminal: TextIO) -> None:
        # click would go round a stream whose encoding is ASCII.
        encoding = "utf-8" if terminal.encoding.lower() in ("ascii", "ansi_x3.4-1968") else terminal.encoding
        # Not detached: the stream that Python made keeps the descriptor open.
        super().__init__(
            cast("IO[bytes]", terminal.buffer), encoding, "backslashreplace", line_buffering=True
        )
        self._bounds = StyleBounds()

    def write(self, text: str) -> int:
        super().write(self._bounds.bound(escape_keep_colours(text)))
        return len(text)

    def write_unchanged(self, text: str) -> int:
        return super().write(text)

    def end_style(self) -> None:
        """Let no colour outlive the program."""
        if self._bounds.open:
            super().write(StyleBounds.RESET)
            self.flush()


class UnfilteredStream:
    """A view of a stream that passes on all that is written to it, for what has to move the cursor."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        stream = self._stream
        return stream.write_unchanged(text) if isinstance(stream, TerminalWriter) else stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def protect_terminals() -> None:
    """Have everything that goes to a terminal from now on pass the filter."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and stream.isatty():
            stream.flush()
            setattr(sys, name, TerminalWriter(stream))


def end_styles() -> None:
    """Before the program ends."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TerminalWriter):
            stream.end_style()


def print_line(line: str, *, err: bool = False) -> None:
    """Print one line; a newline in it does not begin another."""
    print_lines([line], err=err)


def print_lines(lines: Iterable[str], *, err: bool = False) -> None:
    """Print lines, all at once."""
    click.echo("\n".join(escape_keep_colours(line.replace("\n", " ")) for line in lines), err=err)


def print_log(text: str, *, continues: bool, raw: bool) -> None:
    """Print (a piece of) a line of an agent: harmless on a terminal, unchanged elsewhere and if `raw`."""
    end = "" if continues else "\n"
    if sys.stdout.isatty() and not raw:
        shown = text.replace("\n", "\\n")  # a line has none: what has one would forge another
        click.echo(f"{shown}{end}", nl=False)
    else:
        click.echo(f"{text}{end}", file=cast("IO[str]", UnfilteredStream(sys.stdout)), nl=False, color=True)


def print_json(value: Any, *, lines: bool = False, err: bool = False) -> None:
    """Print a value as JSON: indented, or for a stream (`lines`) on one line, sent at once."""
    if lines:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    else:
        text = json.dumps(value, ensure_ascii=False, indent=None if err else 2)
    click.echo(json_escape(text), err=err)
