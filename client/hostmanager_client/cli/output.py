"""Output of the command line, filtered for terminals.

Commands call `print_line`, `print_lines`, `print_json` and `print_log`. `protect_terminals` applies the same
filter to all other output on a terminal: of click, of the commands of other packages, and tracebacks.
"""

from __future__ import annotations

import io
import os
import sys

from hostmanager_client.cli.escape import StyleBounds, escape_keep_colours, json_escape, without_styles
from hostmanager_client.cli.plain import ASCII, HANDLER, register

TYPE_CHECKING = False  # short commands do without `typing`
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, TextIO


class TerminalWriter(io.TextIOWrapper):
    """A text stream to a terminal that escapes dangerous characters and ends colours with their line."""

    def __init__(self, terminal: TextIO) -> None:
        # click bypasses a stream with the encoding ASCII.
        encoding = "utf-8" if terminal.encoding.lower() in ASCII else terminal.encoding
        # The stream of Python must stay attached, as it keeps the descriptor open.
        buffer: Any = terminal.buffer
        super().__init__(buffer, encoding, HANDLER, line_buffering=True)
        self._bounds = StyleBounds()

    def write(self, text: str) -> int:
        """Write filtered text."""
        super().write(self._bounds.bound(escape_keep_colours(text)))
        return len(text)

    def write_unchanged(self, text: str) -> int:
        """Write text without the filter."""
        return super().write(text)

    def end_style(self) -> None:
        """Reset an open colour, before the program ends."""
        if self._bounds.open:
            super().write(StyleBounds.RESET)
            self.flush()


class UnfilteredStream:
    """A view of a stream that bypasses the filter, for code that moves the cursor."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text without the filter."""
        stream = self._stream
        return stream.write_unchanged(text) if isinstance(stream, TerminalWriter) else stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def protect_terminals() -> None:
    """Filter all further output to terminals; let no output fail for a closed stream or a character."""
    register()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller, as by `>&-` in a shell
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 -- for good
        elif isinstance(stream, io.TextIOWrapper) and stream.isatty():
            stream.flush()
            setattr(sys, name, TerminalWriter(stream))
        elif isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors=HANDLER)


def end_styles() -> None:
    """Reset open colours on both streams, before the program ends."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TerminalWriter):
            stream.end_style()


def print_line(line: str, *, err: bool = False) -> None:
    """Print one line; a newline in the text prints as a space."""
    print_lines([line], err=err)


def print_lines(lines: Iterable[str], *, err: bool = False) -> None:
    """Print lines with one write."""
    _echo("\n".join(escape_keep_colours(line.replace("\n", " ")) for line in lines), err=err)


def print_log(text: str, *, continues: bool, raw: bool, before: str = "") -> None:
    """Print a log line or a piece of one: filtered on a terminal unless `raw`, else unchanged.

    `before`: text in front of the line, which is safe to print and may have colours.
    """
    import click

    end = "" if continues else "\n"
    unfiltered: Any = UnfilteredStream(sys.stdout)
    if before:
        click.echo(before, file=unfiltered, nl=False)
    if sys.stdout.isatty() and not raw:
        shown = text.replace("\n", "\\n")  # only a forged log line has a newline
        click.echo(f"{shown}{end}", nl=False)
    else:
        click.echo(f"{text}{end}", file=unfiltered, nl=False, color=True)


def print_json(value: Any, *, lines: bool = False, err: bool = False) -> None:
    """Print a value as JSON: on one line if `lines`, else indented."""
    import json

    encoding = (sys.stderr if err else sys.stdout).encoding or ""
    escape = not encoding.lower().startswith("utf") and encoding.lower() not in ASCII
    if lines:
        text = json.dumps(value, ensure_ascii=escape, separators=(",", ":"))
    else:
        text = json.dumps(value, ensure_ascii=escape, indent=None if err else 2)
    _echo(json_escape(text), err=err)


def _echo(text: str, *, err: bool) -> None:
    """Print text as click.echo does: with colours on a terminal only."""
    stream = sys.stderr if err else sys.stdout
    if (stream.encoding or "").lower() in ASCII:
        import click

        click.echo(text, err=err)
        return
    if os.environ.get("NO_COLOR") or not stream.isatty():
        text = without_styles(text)
    stream.write(f"{text}\n")
    stream.flush()
