"""Lines that are kept up to date at one place of the terminal."""

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

REFRESH_PER_SECOND = 2.0  # ages and countdowns move by themselves; changes show at once


class EscapingConsole(Console):
    """A console whose text cannot harm the terminal: only its own control codes move the cursor."""

    def __init__(self, *, stderr: bool = False) -> None:
        # Text of others is no markup, has no emoji codes, and is not coloured by what it looks like.
        super().__init__(
            file=cast("IO[str]", UnfilteredStream(sys.stderr if stderr else sys.stdout)),
            no_color=bool(os.environ.get("NO_COLOR")), markup=False, emoji=False, highlight=False,
        )  # fmt: skip

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(escape(segment.text), segment.style)


class LiveLines:
    """Shows what `lines` returns, until left; what is too long or too much for the screen is cut off."""

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
        """Something changed: show it now."""
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
