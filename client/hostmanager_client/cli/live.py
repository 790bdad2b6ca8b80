"""Lines that are kept up to date at one place of the terminal."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

REFRESH_PER_SECOND = 2.0  # ages and countdowns move by themselves; changes show at once


class LiveLines:
    """Shows what `lines` returns, until left; what is too long or too much for the screen is cut off."""

    def __init__(self, lines: Callable[[], list[str]], *, stderr: bool = False) -> None:
        self._lines = lines
        self._live = Live(
            console=Console(stderr=stderr, no_color=bool(os.environ.get("NO_COLOR")), highlight=False),
            get_renderable=self._text,
            refresh_per_second=REFRESH_PER_SECOND,
            vertical_overflow="ellipsis",
        )

    def _text(self) -> Text:
        text = Text.from_ansi("\n".join(self._lines()), no_wrap=True, overflow="ellipsis")
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
