"""Layout of tables: which columns a width has room for, and lines of text."""

from __future__ import annotations

import os
import sys

from hostmanager.values import dataclass

from hostmanager_client.cli.plain import displayable
from hostmanager_client.cli.tables.width import cut, cut_middle, measure, pad, wrap
from hostmanager_client.cli.text import Cell, style

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

GAP = "  "
_TEXT_SHARE = 0.4  # of the width, that the text column gets before other columns may stay
_TEXT_LEAST = 24
_USUAL_WIDTH = 80
_NAME_LEAST = 12


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    `drop`: the columns with the lowest number leave a narrow table first; columns with 0 stay. `text`: takes
    the rest of the width, and breaks between words. `name`: in a very narrow table, cut in the middle.
    """

    title: str
    drop: int = 0
    right: bool = False
    text: bool = False
    name: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns that fit, as indices into the columns of the table, and their widths."""

    columns: tuple[Column, ...]
    widths: tuple[int, ...]
    chosen: tuple[int, ...]

    def parts(self, row: Sequence[Cell]) -> Iterator[tuple[str, Cell]]:
        """Yield the text of each chosen cell on one line, cut and padded, with its cell; gaps included."""
        last = len(self.chosen) - 1
        for n, i in enumerate(self.chosen):
            width, column = self.widths[n], self.columns[i]
            text = pad(_cut(column, displayable(row[i].text), width), width, right=column.right)
            yield text if n == last else text + GAP, row[i]

    def lines(self, row: Sequence[Cell]) -> list[str]:
        """Return the lines of a row: more than one if the text column needs them."""
        rest: list[str] = []
        parts, used = [], 0
        for width, i in zip(self.widths, self.chosen, strict=True):
            cell, column = row[i], self.columns[i]
            text, size = measure(cell.text)
            if size > width:
                if column.text:
                    text, *rest = wrap(text, width)
                    rest = [" " * used + style(line, cell.color, bold=cell.bold) for line in rest]
                text, size = measure(_cut(column, text, width))
            shown = style(text, cell.color, bold=cell.bold) if cell.color or cell.bold else text
            parts.append(" " * (width - size) + shown if column.right else shown + " " * (width - size))
            used += width + len(GAP)
        return [GAP.join(parts).rstrip(), *rest]

    def header(self) -> list[Cell]:
        """Return the titles of all columns."""
        return [Cell(column.title, bold=True) for column in self.columns]


def _cut(column: Column, text: str, width: int) -> str:
    return cut_middle(text, width) if column.name else cut(text, width)


def fit(columns: Sequence[Column], widths: Sequence[int], limit: int | None) -> Layout:
    """Choose the columns for a width; `widths` are those of the contents, `limit` None for all columns."""
    wanted = [max(width, len(column.title)) for column, width in zip(columns, widths, strict=True)]
    chosen = list(range(len(columns)))
    if limit is None:
        return Layout(tuple(columns), tuple(wanted), tuple(chosen))
    text = next((i for i, column in enumerate(columns) if column.text), None)
    least = 0
    if text is not None:
        least = min(wanted[text], max(_TEXT_LEAST, int(limit * _TEXT_SHARE)))
    for leaves in sorted((i for i in chosen if columns[i].drop), key=lambda i: columns[i].drop):
        if _rest(wanted, chosen, text, limit) >= least:
            break
        chosen.remove(leaves)
    name = next((i for i, column in enumerate(columns) if column.name), None)
    if name is not None and (lacks := least - _rest(wanted, chosen, text, limit)) > 0:
        wanted[name] = max(_NAME_LEAST, wanted[name] - lacks)
    if text is not None:
        wanted[text] = max(1, min(wanted[text], _rest(wanted, chosen, text, limit)))
    return Layout(tuple(columns), tuple(wanted[i] for i in chosen), tuple(chosen))


def _rest(wanted: Sequence[int], chosen: Sequence[int], text: int | None, limit: int) -> int:
    """Return the width that the other columns leave for the text column."""
    return limit - sum(wanted[i] for i in chosen if i != text) - len(GAP) * (len(chosen) - 1)


def table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], limit: int | None) -> list[str]:
    """Return the lines of a table, for a width or with all columns."""
    widths = [max((measure(row[i].text)[1] for row in rows), default=0) for i in range(len(columns))]
    layout = fit(columns, widths, limit)
    return [line for row in (layout.header(), *rows) for line in layout.lines(row)]


def terminal_width() -> int | None:
    """Return the width of the terminal on standard output; None if there is no terminal."""
    if not sys.stdout.isatty():
        return None
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or _USUAL_WIDTH
    except (OSError, ValueError):
        return _USUAL_WIDTH
