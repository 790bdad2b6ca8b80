"""Lines that refresh in place on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import IO, Self, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

from hostmanager_client.cli.escape import escape, escape_keep_colours
from hostmanager_client.cli.output import UnfilteredStream

REFRESH_PER_SECOND = 2.0  # for ages and countdowns; changes appear at once


class EscapingConsole(Console):
    """A rich console that escapes dangerous characters in its text."""

    def __init__(self, *, stderr: bool = False) -> None:
        # Foreign text has no markup, no emoji codes and no highlighting.
        super().__init__(
            file=cast("IO[str]", UnfilteredStream(sys.stderr if stderr else sys.stdout)),
            no_color=bool(os.environ.get("NO_COLOR")), markup=False, emoji=False, highlight=False,
        )  # fmt: skip

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of an object, with escapes in their text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(escape(segment.text), segment.style)


class LiveLines:
    """A context that shows the result of `lines` in place, cut to the size of the screen."""

    def __init__(self, lines: Callable[[], list[str]], *, stderr: bool = False) -> None:
        self._lines = lines
        self._live = Live(
            console=EscapingConsole(stderr=stderr),
            get_renderable=self._text,
            refresh_per_second=REFRESH_PER_SECOND,
            vertical_overflow="ellipsis",
        )

    def _text(self) -> Text:
        text = Text.from_ansi(
            "\n".join(map(escape_keep_colours, self._lines())), no_wrap=True, overflow="ellipsis"
        )
        text.end = ""
        return text

    def refresh(self) -> None:
        """Show the current lines at once."""
        self._live.refresh()

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()
