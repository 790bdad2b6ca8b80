"""The table of transitions: complete, exact, and shown in the docs."""

from __future__ import annotations

import ast
import re
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
from hostmanager_server.core import lifecycle
from hostmanager_server.core.actions import Action
from hostmanager_server.core.compose import ServiceStatus
from hostmanager_server.core.events import Instant
from hostmanager_server.core.model import Instance, Phase, Run, State
from hostmanager_server.core.spec import RestartPolicy, RestartWhen, Target
from hostmanager_server.core.transitions import TRANSITIONS

from tests.core.instances import with_fields
from tests.core.scripted_instance import PROCESS, make

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "states.md"
EVENTS_PAGE = ROOT / "docs" / "reference" / "events.md"
SERVER = ROOT / "server" / "hostmanager_server"


def live_through_everything() -> None:
    s = make().up()
    s.crash_and_return()
    s.restart()  # from up
    s.ends()
    s.started()
    s.ready()
    s.ends(1)
    s.target(Target.DOWN)  # while backing off
    s.neighbours(waiting_for=("b",))
    s.target(Target.UP)  # waits
    s.target(Target.DOWN)
    s.neighbours()
    s.target(Target.UP)
    s.until_state_deadline()  # the start runs out of time
    s.ends()  # and the next attempt follows
    s.until_state_deadline()
    s.start_failed()
    s.until_state_deadline()
    s.started()
    s.target(Target.DOWN)
    s.ends()
    for ready in (True, False):
        s = make(restart=RestartPolicy(RestartWhen.NEVER))
        s.decide()
        if ready:
            s.ready()
        s.ends(0)
    s = make(Target.DOWN, up_after=1.0)
    s.instance = with_fields(s.instance, run=Run(1, Phase.READY, PROCESS, 4711, s.now), runs=1)
    s.decide()  # found running, just started
    s = make(process=None, problem="no command")
    s.decide()
    s.instance = replace(s.instance, spec=replace(s.instance.spec, process=PROCESS))
    s.decide()
    s = make(Target.DOWN)
    s.instance = with_fields(s.instance, service=ServiceStatus(restarting=True))
    s.decide()
    s = make(Target.PASSIVE)
    s.instance = with_fields(s.instance, run=Run(1, Phase.READY, PROCESS), runs=1)
    s.decide()
    s.instance = with_fields(
        s.instance, service=ServiceStatus(running=True, running_replicas=1, paused_replicas=1)
    )
    s.decide()
    s.instance = with_fields(s.instance, service=ServiceStatus(running=True, running_replicas=1))
    s.decide()


def test_every_transition_of_the_table_happens_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    observed: set[tuple[State, State]] = set()
    step = lifecycle._step

    def traced(instance: Instance, now: Instant, actions: list[Action]) -> Instance:
        after = step(instance, now, actions)
        if after.standing.state is not instance.standing.state:
            observed.add((instance.standing.state, after.standing.state))
        return after

    monkeypatch.setattr(lifecycle, "_step", traced)
    live_through_everything()
    assert observed == {(state, to) for state, followers in TRANSITIONS.items() for to in followers}


def test_the_page_shows_the_present_table() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "draw_states.py"))
    page = PAGE.read_text(encoding="utf-8")
    assert script["with_diagram"](page) == page, "run scripts/draw_states.py"
    for state, followers in TRANSITIONS.items():
        for to, why in followers.items():
            name, follower = ("not_operable" if x is State.UNKNOWN else x.value for x in (state, to))
            assert f"{name} --> {follower}: {why}" in page


def test_the_page_explains_every_state() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert {state.value for state in State} <= set(rows)


# Functions with a reason among their arguments.
TAKE_A_REASON = {"LogEntry", "_entry", "_change", "move", "condition", "start_failed"}


def reasons_in(source: str) -> set[str]:
    """Return the reasons in a module: arguments, defaults and variables named `reason`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        given: list[ast.expr | None] = []
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
                given = [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
                given += node.args if name in TAKE_A_REASON else []
            case ast.Assign(targets=[ast.Name(id="reason")]) | ast.AnnAssign(target=ast.Name(id="reason")):
                given = [node.value]
            case ast.Assign(
                targets=[ast.Tuple(elts=[ast.Name(id="reason"), *_])], value=ast.Tuple(elts=[first, *_])
            ):
                given = [first]
        for value in given:
            choices = [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]
            words = [choice.value for choice in choices if isinstance(choice, ast.Constant)]
            found |= {
                word for word in words if isinstance(word, str) and re.fullmatch("[A-Z][A-Za-z]+", word)
            }
    return found


def test_the_search_for_reasons_finds_every_notation() -> None:
    source = (
        'LogEntry(EntryKind.UP, "One"); self._entry("Two", x); '
        'f(reason="Three" if i else "Four"); reason: str = "Five"; reason, message = "Six", "a text"'
    )
    assert reasons_in(source) == {"One", "Two", "Three", "Four", "Five", "Six"}


def test_the_pages_list_every_reason() -> None:
    found = {word for path in SERVER.rglob("*.py") for word in reasons_in(path.read_text(encoding="utf-8"))}
    assert {"BackingOff", "StartTimedOut", "Retired", "Finished", "Stopped"} <= found
    pages = "".join(page.read_text(encoding="utf-8") for page in (PAGE, EVENTS_PAGE))
    rows = set(re.findall(r"^\| `([A-Z][A-Za-z]+)` \|", pages, re.MULTILINE))
    assert found == rows, "the tables of states.md and events.md list other reasons than the code"
