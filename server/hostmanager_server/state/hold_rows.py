"""Rows of holds in the journal: in the table `meta`, as any earlier version can read the file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from hostmanager_server.core.events import Instant
from hostmanager_server.core.model import Hold

_PREFIX = "hold/"  # of the key; the id of the instance follows


def hold_rows(holds: Mapping[str, Hold | None]) -> dict[str, str | None]:
    """Return the rows of these holds; None deletes a row."""
    return {_PREFIX + name: None if hold is None else _encode(hold) for name, hold in holds.items()}


def read_holds(meta: Mapping[str, str | None]) -> dict[str, Hold]:
    """Return the holds in the rows of `meta`. Raises ValueError for a row that no version wrote."""
    return dict(_read(meta))


def _read(meta: Mapping[str, str | None]) -> Iterator[tuple[str, Hold]]:
    for key, text in meta.items():
        if key.startswith(_PREFIX) and text is not None:
            try:
                value = json.loads(text)
                until = _instant(value["until"]) if value["until"] is not None else None
                yield key.removeprefix(_PREFIX), Hold(_instant(value["since"]), until, str(value["reason"]))
            except (KeyError, TypeError) as error:
                raise ValueError(f"cannot read the hold of an instance: {error!r}") from error


def _encode(hold: Hold) -> str:
    until = [hold.until.mono, hold.until.wall] if hold.until is not None else None
    since = [hold.since.mono, hold.since.wall]
    return json.dumps({"since": since, "until": until, "reason": hold.reason}, separators=(",", ":"))


def _instant(value: list[float]) -> Instant:
    mono, wall = value
    return Instant(float(mono), float(wall))
