"""Lines of text for events, fit to the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from hostmanager_client import words
from hostmanager_client.cli.escape import one_line
from hostmanager_client.cli.origins import origin_words
from hostmanager_client.cli.tables.layout import Column, fit, terminal_width
from hostmanager_client.cli.tables.width import display_width
from hostmanager_client.cli.text import Cell
from hostmanager_client.last_output import last_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hostmanager.v1 import host_manager_pb2 as pb

_COLORS = {"warning": "yellow", "error": "red"}
_DATE = Column("", drop=2)
_COLUMNS = (
    _DATE,
    Column(""),
    Column("", drop=3),
    Column("", drop=1),
    Column("", name=True),
    Column("", text=True),
)
_WIDTHS = (len("2000-01-01"), len("00:00:00.000"), len("warning"), len("start_failed"))
_LEAST_ID, _MOST_ID = 16, 40
_UNLIMITED = 10_000  # columns of the text, which has no known width


class EventTable:
    """The lines of a list of events, which may go on.

    Without a terminal a line has the same fields in each list, and any length.
    """

    def __init__(self, instance_ids: Iterable[str] = ()) -> None:
        """Fit the table to the terminal, for events of these instances."""
        self._limit = terminal_width()
        longest = max((display_width(one_line(each)) for each in instance_ids), default=0)
        ids = min(max(longest, _LEAST_ID), _MOST_ID)
        self._layout = fit(_COLUMNS, (*_WIDTHS, ids, _UNLIMITED), self._limit)
        self._without_date = _COLUMNS.index(_DATE) not in self._layout.chosen
        self._day = ""

    def lines(self, event: pb.Event) -> list[str]:
        """Return the lines of the next event; a day begins with a line if the table has no dates."""
        if self._limit is None:
            return [event_line(event)]
        moment, severity, kind, instance_id, text = _fields(event)
        day, _, time = moment.partition(" ")
        color = _COLORS.get(severity, "")
        cells = [Cell(day), Cell(time), Cell(severity, color), Cell(kind), Cell(instance_id), Cell(text)]
        heading = [f"--- {day}"] if self._without_date and day != self._day else []
        self._day = day
        return [*heading, *self._layout.lines(cells)]


def event_line(event: pb.Event) -> str:
    """Return an event as one line with all fields."""
    moment, severity, kind, instance_id, text = _fields(event)
    return f"{moment}  {severity:7}  {kind:12}  {instance_id:16}  {text}"


def short_event_line(event: pb.Event) -> str:
    """Return an event of a known instance as one line: day, time and text, and the severity if not info."""
    moment, severity, _, _, text = _fields(event)
    return f"{moment[5:-4]}  {f'{severity}: ' if severity in _COLORS else ''}{text}"


def _fields(event: pb.Event) -> tuple[str, str, str, str, str]:
    """Return time, severity, kind, instance and text."""
    when = words.to_datetime(event.time).astimezone()
    severity = words.severity_word(event.severity)
    kind = words.event_word(event.kind)
    return (
        f"{when:%Y-%m-%d %H:%M:%S.%f}"[:-3], severity, kind, one_line(event.instance_id) or "-", _text(event)
    )  # fmt: skip


def _text(event: pb.Event) -> str:
    text = one_line(f"{event.reason}: {event.message}") if event.message else one_line(event.reason)
    if event.exit.last_output:
        text += f': "{one_line(last_line(event.exit))}"'
    return f"{text} [{origin_words(event.origin)}]" if event.HasField("origin") else text
