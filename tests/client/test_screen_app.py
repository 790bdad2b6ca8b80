"""The pages, prompts and requests of the screen of `watch`, painted without a terminal."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client.calls import DOWN, UP
from hostmanager_client.cli.screen.app import ScreenApp
from hostmanager_client.cli.screen.text_page import TextPage
from hostmanager_client.cli.tables.width import display_width
from hostmanager_client.errors import PreconditionFailed

from tests.client.test_screen_model import LAB, instance, state
from tests.waiting import wait_until


class FakeClient:
    """A client that records requests, and refuses them if it has an error."""

    address = "unix:/run/test.sock"

    def __init__(self) -> None:
        self.sent: list[object] = []
        self.error: Exception | None = None
        self.answered = threading.Event()

    def update(self, changes: object) -> None:
        self._send(changes)

    def restart(self, instance_ids: object) -> None:
        self._send(instance_ids)

    def _send(self, what: object) -> None:
        self.sent.append(what)
        if self.error is not None:
            raise self.error


class Screen:
    """An app with a fake client; `ended` after the user quits."""

    def __init__(self, *instances: pb.ManagedInstance) -> None:
        from hostmanager_client.cli.screen.model import ScreenModel

        self.client = FakeClient()
        self.ended = False
        self.model = ScreenModel(0.0)
        if instances:
            self.model.take_state(state(*instances), 0.0)
        self.app = ScreenApp(cast("Any", self.client), self.model, lambda: None, self._end)

    def _end(self) -> None:
        self.ended = True

    def press(self, *keys: str) -> None:
        for key in keys:
            self.app.press(key)

    def lines(self, columns: int = 80, height: int = 24) -> list[str]:
        return ["".join(text for _, text in line) for line in self.app.paint(columns, height, 1.0)]

    @property
    def bottom(self) -> str:
        return self.lines()[-1].strip()


@pytest.mark.parametrize("columns", [20, 60, 80, 120, 200])
@pytest.mark.parametrize("height", [3, 5, 24, 50])
def test_every_size_is_filled_and_never_exceeded(columns: int, height: int) -> None:
    screen = Screen(*LAB, instance("温度", message="x" * 300))
    for keys in ([], ["enter"], ["esc", "?"], ["q", "r"], ["n", "/", "x"]):
        screen.press(*keys)
        lines = screen.lines(columns, height)
        assert len(lines) == height
        table = lines[2:-3] if columns >= 60 and keys in ([], ["n", "/", "x"]) else []
        assert all(display_width(line) <= columns for line in table)


def test_5_000_instances_are_painted_by_the_page() -> None:
    screen = Screen(*(instance(f"agent-{n:04d}", position=n + 1) for n in range(5000)))
    lines = screen.lines(100, 30)
    assert lines[0] == "5000 up"
    assert lines[3].split()[0] == "agent-0000"
    screen.press("page down", "page down", "up")
    assert screen.model.current is not None
    page = 30 - 6  # rows, without summary, manager, header, two lines of detail and the keys
    assert screen.model.current.instance_id == f"agent-{2 * page - 1:04d}"
    assert any(line.startswith(f"agent-{2 * page - 1:04d}") for line in screen.lines(100, 30))
    screen.press("end")
    assert screen.lines(100, 30)[-4].startswith("agent-4999")


@pytest.mark.parametrize(
    ("key", "question", "sent", "done"),
    [
        ("u", "Set the target of b to up?", [("b", UP)], "b: target up"),
        ("d", "Set the target of b to down, which stops it?", [("b", DOWN)], "b: target down"),
        ("r", "Restart b?", ["b"], "b: restarting"),
    ],
)
def test_a_request_asks_first_and_tells_the_outcome(key: str, question: str, sent: object, done: str) -> None:
    screen = Screen(*LAB)
    screen.press(key)
    assert screen.bottom.startswith(question)
    screen.press("n")
    assert (screen.bottom, screen.client.sent) == ("nothing was changed", [])
    screen.press(key, "y")
    wait_until(lambda: screen.bottom == done, done)
    assert screen.client.sent == [sent]
    screen.press("down")
    assert screen.bottom.startswith("q quit")


def test_a_refusal_is_shown_with_its_remedy() -> None:
    screen = Screen(*LAB)
    screen.client.error = PreconditionFailed(
        "cannot restart: the manager is stopped", reason="MANAGER_STOPPED"
    )
    screen.press("r", "y")
    wait_until(lambda: "the manager is stopped" in screen.bottom, "the refusal")
    assert "`hostmanager manager start`" in screen.bottom


def test_the_question_is_about_the_row_at_the_time_of_the_key() -> None:
    screen = Screen(*LAB)
    screen.press("r")
    screen.model.take_state(state(LAB[0], LAB[1]), 1.0)
    screen.press("y")
    wait_until(lambda: screen.client.sent, "the request")
    assert screen.client.sent == [["b"]]


def test_a_filter_takes_effect_while_typed_and_is_taken_back_by_esc() -> None:
    screen = Screen(*LAB)
    screen.press("/", "d", "o", "w", "n")
    assert screen.bottom.startswith("/down_")
    assert [one.instance_id for one in screen.model.rows] == ["d"]
    screen.press("backspace", "enter", "/", "x", "esc")
    assert screen.model.filter == "dow"
    assert "[filter 'dow': 1 of 4]" in screen.lines()[0]
    screen.press("esc")
    assert screen.model.filter == ""
    screen.press("/", "q", "enter")
    assert not screen.ended


def test_the_properties_follow_the_state_and_q_leads_back() -> None:
    screen = Screen(*LAB)
    screen.press("enter")
    assert any(line.split() == ["state:", "start_at"] for line in screen.lines())
    screen.model.take_state(state(instance("b", position=3)), 1.0)
    assert any(line.split() == ["state:", "up"] for line in screen.lines())
    screen.model.take_state(state(), 2.0)
    assert "b is gone" in screen.lines()
    screen.press("q")
    assert not screen.ended
    screen.press("q")
    assert screen.ended


def test_the_keys_of_the_help_fit_80_columns() -> None:
    screen = Screen(*LAB)
    screen.press("?")
    lines = screen.lines(80, 60)
    assert max(map(len, lines)) <= 80
    assert lines[1] == "Keys of the table"


def test_nothing_but_quit_works_before_the_first_state() -> None:
    screen = Screen()
    screen.press("r", "enter", "l", "e", "down", "s")
    assert screen.lines()[0] == "waiting for the daemon at unix:/run/test.sock"
    screen.press("q")
    assert screen.ended


def test_a_page_that_follows_stays_at_the_end_until_scrolled() -> None:
    text = [f"line {n}" for n in range(50)]
    page = TextPage("output", lambda: text, follows=True)

    def shown() -> list[str]:
        return ["".join(piece for _, piece in line) for line in page.paint(40, 11, 0.0)]

    assert shown()[0] == "output; lines 41 to 50 of 50; following"
    assert page.key("page up")
    text.append("line 50")
    assert shown() == ["output; lines 31 to 40 of 51; End follows again", *text[30:40]]
    page.key("end")
    text.append("line 51")
    assert shown()[-1] == "line 51"
    page.filter = "line 4"
    assert shown()[1:] == [f"line {n}" for n in (4, *range(40, 50))][1:]
    page.filter = ""
    text[:] = ["a" * 30 + "b" * 30]
    assert shown()[1] == "a" * 30 + "b" * 9 + "…"
    page.key("right")
    assert shown()[1] == "a" * 10 + "b" * 30
