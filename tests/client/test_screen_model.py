"""The model of the screen of `watch`: order, filter, selection, and the age of what it shows."""

from __future__ import annotations

from datetime import UTC, datetime
from types import MappingProxyType

import pytest
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client.cli.screen.model import SORTS, ScreenModel
from hostmanager_client.errors import Unreachable
from hostmanager_client.reconnect import Disconnected, Reconnected
from hostmanager_client.state import HostState


def instance(name: str, action: str = "UP", reason: str = "Running", **fields: object) -> pb.ManagedInstance:
    return pb.ManagedInstance(
        instance_id=name, next_action=pb.NextAction.Value(f"NEXT_ACTION_{action}"), reason=reason,
        agent_class="FakeData", **fields,  # type: ignore[arg-type]  # the test's choice
    )  # fmt: skip


def state(*instances: pb.ManagedInstance) -> HostState:
    found = {one.instance_id: one for one in instances}
    return HostState(1, datetime.fromtimestamp(1000, UTC), pb.ManagerStatus(), MappingProxyType(found))


def model(*instances: pb.ManagedInstance) -> ScreenModel:
    made = ScreenModel(0.0)
    made.take_state(state(*instances), 0.0)
    return made


def names(shown: ScreenModel) -> list[str]:
    return [one.instance_id for one in shown.rows]


def current(shown: ScreenModel) -> str:
    return shown.current.instance_id if shown.current is not None else ""


LAB = (
    instance("c", position=1, restart_count=2),
    instance("a", position=2),
    instance("b", "START_AT", "BackingOff", position=3, restart_count=9),
    instance("d", "DOWN", "Stopped", position=4),
)


def test_the_first_order_is_trouble_and_then_the_site_config() -> None:
    assert names(model(*LAB)) == ["b", "c", "a", "d"]


@pytest.mark.parametrize(
    ("sort", "expected"),
    [("name", "abcd"), ("restarts", "bcad"), ("class", "bcad"), ("newest change", "bcad")],
)
def test_each_order_keeps_the_first_one_among_equals(sort: str, expected: str) -> None:
    shown = model(*LAB)
    while shown.sort != sort:
        shown.next_sort()
    assert "".join(names(shown)) == expected
    shown.reverse()
    assert "".join(names(shown)) == expected[::-1]


def test_the_orders_come_round() -> None:
    shown = model(*LAB)
    for _ in SORTS:
        shown.next_sort()
    assert names(shown) == ["b", "c", "a", "d"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [("fail", ["b"]), ("FAKEDATA down", ["d"]), ("nothing", []), ("", ["b", "c", "a", "d"])],
)
def test_the_filter_wants_all_words_and_counts_stay_those_of_all(words: str, expected: list[str]) -> None:
    shown = model(*LAB)
    shown.set_filter(words)
    assert names(shown) == expected
    assert shown.counts == {"up": 2, "down": 1, "failing": 1}


def test_a_chosen_row_keeps_its_instance_and_an_unchosen_one_its_place() -> None:
    shown = model(*LAB)
    assert current(shown) == "b"
    healed = (LAB[0], LAB[1], instance("b", position=3), LAB[3])
    shown.take_state(state(*healed), 1.0)
    assert (current(shown), shown.index) == ("c", 0)
    shown.move(1)
    shown.take_state(state(*LAB), 2.0)
    assert (current(shown), shown.index) == ("a", 2)
    shown.take_state(state(LAB[2], LAB[3]), 3.0)  # a and c are gone
    assert current(shown) == "d"
    shown.take_state(state(), 4.0)
    assert current(shown) == ""
    shown.move(1)


def test_a_lost_connection_tells_since_when_and_how_old_the_state_is() -> None:
    shown = model(*LAB)
    assert shown.connection_text(50.0) == ""
    shown.heard(50.0)
    shown.take_connection(Disconnected(Unreachable("connection refused"), 1, 2.0), 52.0)
    shown.take_connection(Disconnected(Unreachable("no such socket"), 2, 4.0), 54.0)
    assert shown.connection_text(56.0) == (
        "CUT OFF for 4.0 s; shown: the state of 6.0 s ago; next attempt in 2.0 s; no such socket"
    )
    shown.take_connection(Reconnected(5.0, complete=True), 57.0)
    assert shown.connection_text(58.0) == ""


def test_ages_follow_the_clock_of_the_daemon() -> None:
    shown = model(*LAB)
    shown.heard(30.0)
    assert shown.clock(40.0) == 1040.0
