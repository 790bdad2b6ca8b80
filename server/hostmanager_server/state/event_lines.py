"""Lines of the remembered events: one JSON object for each event, and marks of the daemon's lives."""

from __future__ import annotations

import json
from typing import Any

from hostmanager.values import dataclass

from hostmanager_server.core.event_log import EntryKind, LogEntry, Severity
from hostmanager_server.core.event_selection import EventSelection
from hostmanager_server.core.events import Instant
from hostmanager_server.state.store import PublishedEntry
from hostmanager_server.state.stored_values import read_exit, read_origin, write_exit, write_origin

LONGEST_MESSAGE = 8_000  # characters; only lists of config problems come near
_MOST_NEEDLES = 8

_compact = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class EpochMark:
    """The begin or the orderly end of a daemon's life; the events from `sequence` on follow the mark."""

    epoch: str
    sequence: int
    closed: bool = False


def encode_entry(published: PublishedEntry) -> bytes:
    """Return the line of an event. The number and the time come first, for readers that skip the event."""
    entry = published.entry
    values: dict[str, Any] = {
        "n": published.sequence,
        "t": entry.at.wall,
        "k": entry.kind.value,
        "s": entry.severity.value,
        "r": entry.reason,
        "m": entry.message[:LONGEST_MESSAGE],
        "v": published.revision,
    }
    if entry.instance_id:
        values["i"] = entry.instance_id
    if entry.exit is not None:
        values["x"] = write_exit(entry.exit)
    if entry.origin is not None:
        values["o"] = write_origin(entry.origin)
    return _compact(values).encode() + b"\n"


def decode_entry(line: bytes, *, epoch_begin: int) -> PublishedEntry:
    """Return the event of a line; raise ValueError for a damaged line.

    The revision of an event before `epoch_begin` is 0, as revisions of different epochs cannot be compared.
    """
    try:
        values = json.loads(line)
        sequence = int(values["n"])
        entry = LogEntry(
            EntryKind(values["k"]),
            _text(values["r"]),
            _text(values["m"]),
            Instant(0.0, float(values["t"])),
            _text(values.get("i", "")),
            Severity(values["s"]),
            read_exit(values["x"]) if "x" in values else None,
            read_origin(values["o"]) if "o" in values else None,
        )
        return PublishedEntry(sequence, int(values["v"]) if sequence >= epoch_begin else 0, entry)
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"cannot read a remembered event: {error!r}") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"cannot read a remembered event: {value!r} is no text")
    return value


def encode_mark(mark: EpochMark) -> bytes:
    """Return the line of a mark."""
    return _compact({"closed" if mark.closed else "epoch": mark.epoch, "n": mark.sequence}).encode() + b"\n"


def decode_mark(line: bytes) -> EpochMark | None:
    """Return the mark of a line; None for an event or a damaged line."""
    if not line.startswith((b'{"epoch":', b'{"closed":')):
        return None
    try:
        values = json.loads(line)
        closed = "closed" in values
        return EpochMark(_text(values["closed" if closed else "epoch"]), int(values["n"]), closed)
    except (ValueError, KeyError, TypeError):
        return None


def sequence_of(line: bytes) -> int | None:
    """Return the sequence number of an event's line, without reading the rest; None for other lines."""
    if not line.startswith(b'{"n":'):
        return None
    try:
        return int(line[5 : line.index(b",", 5)])
    except ValueError:
        return None


class LineFilter:
    """A cheap test of lines before they are read: refuses only events outside the selection."""

    def __init__(self, selection: EventSelection) -> None:
        self._timed = selection.since is not None or selection.until is not None
        self._selection = selection
        ids = [f'"i":{_compact(word)}'.encode() for word in selection.instance_ids if word]
        self._ids = ids if len(ids) <= _MOST_NEEDLES else []
        self._of_host = "" in selection.instance_ids  # also events without an instance
        reasons = [f'"r":{_compact(word)}'.encode() for word in selection.reasons]
        self._needles = [reasons] if 0 < len(reasons) <= _MOST_NEEDLES else []
        if selection.min_severity is not Severity.INFO:
            severe = (Severity.WARNING, Severity.ERROR)
            self._needles.append([f'"s":"{each.value}"'.encode() for each in severe])

    def may_take(self, line: bytes) -> bool:
        """Return whether the event may be in the selection."""
        if self._timed and not self._in_time(line):
            return False
        named = not self._ids or any(needle in line for needle in self._ids)
        if not named and (not self._of_host or b',"i":' in line):
            return False
        return all(any(needle in line for needle in needles) for needles in self._needles)

    def _in_time(self, line: bytes) -> bool:
        begin = line.find(b'"t":') + 4
        try:
            return self._selection.takes_time(float(line[begin : line.index(b",", begin)]))
        except ValueError:
            return True
