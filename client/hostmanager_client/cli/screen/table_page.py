"""The page with the table of instances."""

from __future__ import annotations

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_client.cli.escape import one_line, without_styles
from hostmanager_client.cli.plain import displayable
from hostmanager_client.cli.screen.lines import Line, filled, plain_line, wrapped
from hostmanager_client.cli.screen.model import TROUBLE_FIRST, ScreenModel
from hostmanager_client.cli.tables.instances import InstanceColumn, columns_for
from hostmanager_client.cli.tables.layout import Layout, fit
from hostmanager_client.cli.tables.status import summary_cells
from hostmanager_client.cli.tables.width import cut, display_width
from hostmanager_client.cli.text import Cell
from hostmanager_client.cli.view import describe, manager_line, problem_lines

_PROBLEMS = 2  # lines for problems
_DETAIL = 2  # lines for the whole message of the selected row
_TEXT_WANTED = 200  # columns for messages, so that the layout does not change with them


class TablePage:
    """Paints the table."""

    keys = "q quit  ? help  / filter  Enter show  w why  l logs  u up  d down  r restart"

    def __init__(self, model: ScreenModel, address: str) -> None:
        self._model = model
        self._address = address
        self._widths: dict[
            str, int
        ] = {}  # of columns, by title; they never shrink, so that columns stand still
        self._page = 1  # rows

    def key(self, key: str) -> bool:
        """Move the selection; return False for a key of another meaning."""
        steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -self._page, "page down": self._page,
                 "home": -(10**9), "g": -(10**9), "end": 10**9, "G": 10**9}  # fmt: skip
        if key not in steps:
            return False
        self._model.move(steps[key])
        return True

    def paint(self, columns: int, height: int, now: float) -> list[Line]:
        """Return the lines of the page."""
        model = self._model
        if model.state is None:
            return wrapped(
                model.connection_text(now) or f"waiting for the daemon at {self._address}", columns, height
            )
        clock = model.clock(now)
        head = self._head(model, columns, now, clock)
        detail = self._detail(model, columns, clock)
        self._page = max(1, height - len(head) - 1 - len(detail))
        return [*head, *self._table(columns, self._page, clock), *detail]

    def _head(self, model: ScreenModel, columns: int, now: float, clock: float) -> list[Line]:
        assert model.state is not None
        summary = _joined(summary_cells(model.counts))
        notes = (
            [f"sorted by {model.sort}{', backwards' if model.backwards else ''}"]
            if (model.sort != TROUBLE_FIRST or model.backwards)
            else []
        )
        if model.filter:
            notes.append(f"filter '{model.filter}': {len(model.rows)} of {len(model.state.instances)}")
        if notes:
            summary.append(("bold", displayable(f"   [{'; '.join(notes)}]")))
        lost = model.connection_text(now)
        manager = without_styles(manager_line(model.state.manager, clock, self._address))
        lines = [
            summary,
            *(
                wrapped(lost, columns, 2, "alarm")
                if lost
                else [plain_line(cut(displayable(manager), columns))]
            ),
        ]
        problems = [without_styles(line) for line in problem_lines(model.state.manager)]
        if len(problems) > _PROBLEMS:
            more = len(problems) - _PROBLEMS + 1
            problems = [*problems[: _PROBLEMS - 1], f"and {more} more; `hostmanager status` shows them all"]
        return [*lines, *(plain_line(cut(displayable(problem), columns), "yellow") for problem in problems)]

    def _table(self, width: int, height: int, clock: float) -> list[Line]:
        model = self._model
        rows = model.rows
        model.top = min(max(model.top, model.index - height + 1), model.index, max(0, len(rows) - height))
        model.top = max(model.top, 0)
        visible = rows[model.top : model.top + height]
        assert model.state is not None
        shown = columns_for(model.state.instances.values())
        cells = [[column.cell(instance, clock) for column in shown] for instance in visible]
        layout = self._layout(shown, cells, width)
        lines = [[("bold", text) for text, _ in layout.parts(layout.header())]]
        for n, row in enumerate(cells, model.top):
            pieces = [(cell.color, text) for text, cell in layout.parts(row)]
            lines.append(filled(pieces, width, "selected") if n == model.index else pieces)
        if not rows:
            lines.append(plain_line("no instance passes the filter" if model.filter else "no instances"))
        return lines + [[("", "")]] * (height + 1 - len(lines))

    def _layout(self, shown: list[InstanceColumn], cells: list[list[Cell]], width: int) -> Layout:
        for i, column in enumerate(shown):
            title = column.layout.title
            seen = max((display_width(displayable(row[i].text)) for row in cells), default=0)
            self._widths[title] = max(self._widths.get(title, column.usual), seen)
            if column.layout.text:
                self._widths[title] = _TEXT_WANTED
        layouts = [column.layout for column in shown]
        return fit(layouts, [self._widths[layout.title] for layout in layouts], width)

    def _detail(self, model: ScreenModel, width: int, clock: float) -> list[Line]:
        current = model.current
        text = _about(current, clock) if current is not None else ""
        lines = wrapped(text, width, _DETAIL)
        return [[("", "")]] * (_DETAIL - len(lines)) + lines


def _about(instance: pb.ManagedInstance, clock: float) -> str:
    return f"{one_line(instance.instance_id)}: {describe(instance, clock) or one_line(instance.message)}"


def _joined(cells: list[Cell]) -> Line:
    line: Line = []
    for cell in cells:
        line += [("", displayable(" · "))] if line else []
        line.append((cell.color, displayable(cell.text)))
    return line
