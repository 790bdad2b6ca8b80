"""The screen: pages, keys, and the lines at the bottom."""

from __future__ import annotations

from collections.abc import Callable

from hostmanager_client.cli.escape import one_line, without_styles
from hostmanager_client.cli.screen import requests
from hostmanager_client.cli.screen.help import HELP
from hostmanager_client.cli.screen.lines import Line, filled, plain_line, wrapped
from hostmanager_client.cli.screen.model import ScreenModel
from hostmanager_client.cli.screen.requests import Request, request_for
from hostmanager_client.cli.screen.table_page import TablePage
from hostmanager_client.cli.screen.text_page import (
    Page,
    Source,
    StreamPage,
    TextPage,
    event_source,
    log_source,
    why_source,
)
from hostmanager_client.sync import HostManagerClient

_NOTICE_LINES = 4


class ScreenApp:
    """The pages and the prompt; `wake` asks for a new painting, from any thread."""

    def __init__(
        self, client: HostManagerClient, model: ScreenModel, wake: Callable[[], None], end: Callable[[], None]
    ) -> None:
        self.model = model
        self._client = client
        self._wake = wake
        self._end = end
        self._table = TablePage(model, str(client.address))
        self._text: TextPage | None = None
        self._typing: str | None = None  # the text of a filter while typed
        self._filter_before = ""
        self._asked: Request | None = None
        self._notice: tuple[str, str] = ("", "")  # text and style
        self._now = 0.0  # of the last painting

    def close(self) -> None:
        """End the work of the open page."""
        if self._text is not None:
            self._text.close()
            self._text = None

    # --- keys

    def press(self, key: str) -> None:
        """Handle a key."""
        if self._asked is not None:
            self._answer(key)
        elif self._typing is not None:
            self._type(key, self._typing)
        else:
            self._notice = ("", "")
            if not self._page.key(key):
                self._command(key)

    @property
    def _page(self) -> Page:
        return self._table if self._text is None else self._text

    def _command(self, key: str) -> None:
        match key:
            case "/":
                self._filter_before = self._filter
                self._typing = self._filter
            case "esc" if self._filter:
                self._set_filter("")
            case "q" | "Q" | "esc" if self._text is not None:
                self.close()
            case "q" | "Q":
                self._end()
            case "?" | "h" | "f1":
                self._open(TextPage("help", HELP.splitlines))
            case _ if self._text is None:
                self._command_of_table(key)

    def _command_of_table(self, key: str) -> None:
        current = self.model.current
        match key:
            case "s":
                self.model.next_sort()
            case "S":
                self.model.reverse()
            case _ if current is None:
                return
            case "enter":
                self._open(TextPage(one_line(current.instance_id), self._properties(current.instance_id)))
            case "l":
                self._stream("output", current.instance_id, log_source(current.instance_id))
            case "w":
                self._stream("why", current.instance_id, why_source(current.instance_id), follows=False)
            case "e":
                self._stream("events", current.instance_id, event_source(current.instance_id))
            case _:
                self._asked = request_for(key, current.instance_id)

    def _open(self, page: TextPage) -> None:
        self.close()
        self._text = page

    def _stream(self, what: str, instance_id: str, source: Source, *, follows: bool = True) -> None:
        title = f"{what} {'of ' if follows else ''}{one_line(instance_id)}"
        self._open(StreamPage(title, self._client.address, source, self._wake, follows=follows))

    def _properties(self, instance_id: str) -> Callable[[], list[str]]:
        """Return a function for the lines of `show`, which change with the state."""

        def lines() -> list[str]:
            from hostmanager_client.cli.instance_text import property_lines

            state = self.model.state
            instance = state.instances.get(instance_id) if state is not None else None
            if instance is None:
                return [f"{one_line(instance_id)} is gone"]
            return list(map(without_styles, property_lines(instance, self.model.clock(self._now))))

        return lines

    # --- prompts

    @property
    def _filter(self) -> str:
        return self.model.filter if self._text is None else self._text.filter

    def _set_filter(self, text: str) -> None:
        if self._text is None:
            self.model.set_filter(text)
        else:
            self._text.filter = text

    def _type(self, key: str, typed: str) -> None:
        """Edit the filter, which takes effect at once."""
        match key:
            case "enter":
                self._typing = None
                return
            case "esc":
                self._typing, typed = None, self._filter_before
            case "backspace" | "delete":
                self._typing = typed = typed[:-1]
            case "ctrl u":
                self._typing = typed = ""
            case _ if len(key) == 1 and key.isprintable():
                self._typing = typed = typed + key
            case _:
                return
        self._set_filter(typed)

    def _answer(self, key: str) -> None:
        asked, self._asked = self._asked, None
        assert asked is not None
        if key not in ("y", "Y"):
            self._notice = ("nothing was changed", "")
            return
        self._notice = ("asking the daemon ...", "")
        requests.send(self._client, asked, self._show_outcome)

    def _show_outcome(self, text: str, failed: bool) -> None:  # noqa: FBT001 -- called by position
        self._notice = (text, "alarm" if failed else "green")
        self._wake()

    # --- painting

    def paint(self, columns: int, height: int, now: float) -> list[Line]:
        """Return exactly `height` lines."""
        self._now = now
        bottom = self._bottom(columns)[:height]
        body = self._page.paint(columns, max(1, height - len(bottom)), now)
        body = body[: height - len(bottom)]
        return [*body, *[[("", "")]] * (height - len(bottom) - len(body)), *bottom]

    def _bottom(self, columns: int) -> list[Line]:
        text, style = self._notice
        if self._asked is not None:
            return wrapped(
                f"{self._asked.question} y: yes, any other key: no", columns, _NOTICE_LINES, "alarm"
            )
        if self._typing is not None:
            return [plain_line(f"/{self._typing}_   (Enter: keep, Esc: as before)", "bold")]
        if text:
            return wrapped(text, columns, _NOTICE_LINES, style)
        return [filled([("", self._page.keys)], columns, "selected")]
