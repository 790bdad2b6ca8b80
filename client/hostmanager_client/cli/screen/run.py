"""The screen on a terminal: input, output and signals, by urwid."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, cast

import urwid

from hostmanager_client.cli.output import UnfilteredStream
from hostmanager_client.cli.screen.app import ScreenApp
from hostmanager_client.cli.screen.feed import Feed
from hostmanager_client.cli.screen.lines import PALETTE, PALETTE_WITHOUT_COLORS, Line
from hostmanager_client.cli.screen.model import ScreenModel
from hostmanager_client.sync import HostManagerClient

_TICK = 1.0  # s, for ages and countdowns
_PAUSE = 0.1  # s between two paintings, at least
_SHARE = 4  # pauses last this many times as long as a painting, so that a host with many changes leaves time
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_screen(client: HostManagerClient, names: Sequence[str], *, failing: bool = False) -> None:
    """Show the screen until the user quits; raise the error that ends the watch.

    Ctrl-C raises KeyboardInterrupt. Other ending signals end the process as usual, after the terminal is
    restored.
    """
    screen = _Screen(client, names, failing=failing)
    with _signals(screen.end_by) as received:
        screen.run()
    if signal.SIGINT in received:
        raise KeyboardInterrupt
    if received:
        signal.signal(received[0], signal.SIG_DFL)
        os.kill(os.getpid(), received[0])


class _Screen:
    """The loop of urwid around the app."""

    def __init__(self, client: HostManagerClient, names: Sequence[str], *, failing: bool) -> None:
        urwid.set_encoding(sys.stdout.encoding)
        output = cast("Any", UnfilteredStream(sys.stdout))
        no_color = bool(os.environ.get("NO_COLOR"))
        self._model = ScreenModel(time.monotonic())
        self._app = ScreenApp(client, self._model, self._wake, self._end)
        self._widget = _Painted(self._app)
        self._loop = urwid.MainLoop(
            self._widget,
            PALETTE_WITHOUT_COLORS if no_color else PALETTE,
            screen=_Terminal(input=sys.stdin, output=output),
            handle_mouse=False,  # the terminal selects text
        )
        self._pipe = self._loop.watch_pipe(self._woken)
        os.set_blocking(self._pipe, False)
        self._feed = Feed(client, names, self._wake, failing=failing)
        self._painted_at = 0.0
        self._paint_due = False
        self._over = False

    def run(self) -> None:
        """Run until the end; raise the error of the watch, if any."""
        self._feed.start()
        self._loop.set_alarm_in(0.0, self._tick)
        try:
            self._loop.run()
        finally:
            self._app.close()
        if self._feed.error is not None:
            raise self._feed.error

    def end_by(self, signum: int) -> None:
        """End, as a signal asks for."""
        self._over = True
        self._wake()

    def _end(self) -> None:
        raise urwid.ExitMainLoop

    def _wake(self) -> None:
        """Wake the loop, from any thread or a signal handler."""
        with contextlib.suppress(OSError):  # full: the loop will wake; closed: the loop is over
            os.write(self._pipe, b"x")

    def _woken(self, _: bytes) -> bool:
        self._feed.take(self._model)
        if self._over or self._feed.error is not None:
            raise urwid.ExitMainLoop
        if not self._paint_due:
            self._paint_due = True
            pause = max(_PAUSE, _SHARE * self._widget.duration)
            self._loop.set_alarm_in(max(0.0, self._painted_at + pause - time.monotonic()), self._repaint)
        return True

    def _repaint(self, *_: object) -> None:
        self._paint_due = False
        self._painted_at = time.monotonic()
        self._widget.repaint()

    def _tick(self, *_: object) -> None:
        self._repaint()
        self._loop.set_alarm_in(_TICK, self._tick)


class _Terminal(urwid.display.raw.Screen):
    """The terminal, also one of unknown size, as a serial line, for which urwid would show nothing."""

    def get_cols_rows(self) -> tuple[int, int]:
        """Return the size in columns and lines."""
        columns, lines = super().get_cols_rows()
        if columns > 0 and lines > 0:
            return columns, lines
        columns, lines = _number("COLUMNS", 80), _number("LINES", 24)
        self.maxrow = lines
        return columns, lines


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() and int(text) > 0 else default


class _Painted(urwid.Widget):
    """The one widget: it shows the lines of the app."""

    _sizing = frozenset([urwid.BOX])
    _selectable = True

    def __init__(self, app: ScreenApp) -> None:
        super().__init__()
        self._app = app
        self.duration = 0.0  # s, of the last painting

    def repaint(self) -> None:
        """Paint with the next turn of the loop."""
        self._invalidate()

    def render(self, size: Any, focus: bool = False) -> urwid.Canvas:  # noqa: FBT001, FBT002 -- of urwid
        """Return the canvas of the present lines."""
        began = time.monotonic()
        columns, height = size
        lines = self._app.paint(columns, height, began)
        canvas = urwid.CanvasCombine([(_canvas(line, columns), None, False) for line in lines])
        self.duration = time.monotonic() - began
        return canvas

    def keypress(self, size: Any, key: str) -> str | None:
        """Handle a key."""
        self._app.press(key)
        self._invalidate()
        return None


def _canvas(line: Line, columns: int) -> urwid.Canvas:
    pieces = [piece for piece in line if piece[1]]
    return urwid.Text(pieces or "", wrap="clip").render((columns,))


@contextlib.contextmanager
def _signals(handle: Any) -> Iterator[list[int]]:
    """Report ending signals within the context to `handle`; the result lists them."""
    received: list[int] = []

    def take(signum: int, _: FrameType | None) -> None:
        received.append(signum)
        handle(signum)

    before = {signum: signal.signal(signum, take) for signum in _ENDING}
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
