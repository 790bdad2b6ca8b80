"""Pages of text that scroll: the properties, the output and the events of an instance, and the help."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from hostmanager_client.address import Address
from hostmanager_client.cli.documents import connection_line
from hostmanager_client.cli.escape import escape, one_line, without_styles
from hostmanager_client.cli.plain import displayable
from hostmanager_client.cli.screen.lines import Line
from hostmanager_client.cli.tables.width import cut
from hostmanager_client.errors import HostManagerError
from hostmanager_client.reconnect import OnConnection
from hostmanager_client.sync import HostManagerClient

_KEPT = 10_000  # lines of a page that follows
_SIDEWAYS = 20  # columns
_TAB = 8


class Page(Protocol):
    """A page of the screen; `keys` is its line of help."""

    keys: str

    def key(self, key: str) -> bool:
        """Handle a key; return False for a key of another meaning."""
        ...

    def paint(self, columns: int, height: int, now: float) -> list[Line]:
        """Return the lines of the page."""
        ...


class TextPage:
    """Lines of text under a title; `follows`: the page stays at the end while lines arrive."""

    keys = "q back  / filter  arrows, PgUp, PgDn, Home, End scroll"

    def __init__(self, title: str, lines: Callable[[], Iterable[str]], *, follows: bool = False) -> None:
        self.filter = ""
        self._title = title
        self._lines = lines
        self._follows = follows
        self._at_end = follows
        self._top = 0
        self._left = 0
        self._page = 1
        self._count = 0

    def key(self, key: str) -> bool:
        """Scroll; return False for a key of another meaning."""
        steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -self._page, "page down": self._page,
                 " ": self._page, "home": -(10**9), "g": -(10**9), "end": 10**9, "G": 10**9}  # fmt: skip
        if key in ("left", "right"):
            self._left = max(0, self._left + (_SIDEWAYS if key == "right" else -_SIDEWAYS))
            return True
        if key not in steps:
            return False
        last = max(0, self._count - self._page)
        self._top = min(max(self._top + steps[key], 0), last)
        self._at_end = self._follows and self._top == last
        return True

    def close(self) -> None:
        """End the work behind the page."""

    def paint(self, columns: int, height: int, now: float) -> list[Line]:
        """Return the title and the visible lines."""
        lines = list(self._lines())
        if wanted := self.filter.lower():
            lines = [line for line in lines if wanted in line.lower()]
        self._page, self._count = max(1, height - 1), len(lines)
        last = max(0, len(lines) - self._page)
        self._top = last if self._at_end else min(self._top, last)
        notes = [self._title]
        if self.filter:
            notes.append(f"filter '{self.filter}'")
        if len(lines) > self._page:
            notes.append(
                f"lines {self._top + 1} to {min(self._top + self._page, len(lines))} of {len(lines)}"
            )
        if self._follows:
            notes.append("following" if self._at_end else "End follows again")
        visible = lines[self._top : self._top + self._page]
        title: Line = [("bold", displayable("; ".join(notes)))]
        return [title, *([("", self._part(line, columns))] for line in visible)]

    def _part(self, line: str, columns: int) -> str:
        return cut(displayable(line.expandtabs(_TAB))[self._left :], columns)


# Yields texts from a client, which it gets with a listener for its connection.
Source = Callable[[HostManagerClient, OnConnection], Iterator[str]]


class StreamPage(TextPage):
    """A page of lines that a stream of the daemon goes on to send."""

    def __init__(
        self, title: str, address: Address, source: Source, wake: Callable[[], None], *, follows: bool = True
    ) -> None:
        super().__init__(title, self._copy, follows=follows)
        self._kept: deque[str] = deque(maxlen=_KEPT)
        self._lock = threading.Lock()
        self._wake = wake
        self._source = source
        self._client = HostManagerClient(address)
        self._closed = False
        threading.Thread(target=self._read, name="hostmanager-page", daemon=True).start()

    def close(self) -> None:
        """End the stream; the thread ends when gRPC lets go of the connection."""
        self._closed = True
        threading.Thread(target=self._client.close, name="hostmanager-page-close", daemon=True).start()

    def _copy(self) -> list[str]:
        with self._lock:
            return list(self._kept)

    def _read(self) -> None:
        try:
            for line in self._source(
                self._client, lambda change: self._add(f"--- {connection_line(change)}")
            ):
                self._add(line)
        except HostManagerError as error:
            self._add(f"--- {one_line(str(error))}")

    def _add(self, line: str) -> None:
        if not self._closed:
            with self._lock:
                self._kept.append(line)
            self._wake()


def log_source(instance_id: str) -> Source:
    """Return the source of the output of an instance: the last lines, then every new line."""

    def lines(client: HostManagerClient, on_connection: OnConnection) -> Iterator[str]:
        text = ""
        for line in client.tail_logs(instance_id, lines=500, follow=True, on_connection=on_connection):
            text += line.text
            if not line.continues:
                yield escape(without_styles(text)).replace("\n", " ")
                text = ""

    return lines


def event_source(instance_id: str) -> Source:
    """Return the source of the events of an instance: the last ones, then every new one."""

    def lines(client: HostManagerClient, on_connection: OnConnection) -> Iterator[str]:
        from hostmanager.v1 import host_manager_pb2 as pb

        from hostmanager_client.cli.tables.events import short_event_line

        listing = client.list_events([instance_id], newest=200)
        yield from map(short_event_line, listing.events)
        stream = client.watch_events(
            [instance_id], resume_token=listing.resume_token, on_connection=on_connection
        )
        for event in stream:
            yield short_event_line(event) if isinstance(event, pb.Event) else f"--- {one_line(event.message)}"

    return lines


def why_source(instance_id: str) -> Source:
    """Return the source of the explanation of an instance, as `hostmanager why` gives it."""

    def lines(client: HostManagerClient, _: OnConnection) -> Iterator[str]:
        from hostmanager_client.cli.explain import explanation_lines

        yield from map(without_styles, explanation_lines(client.explain([instance_id]), named=True))

    return lines
