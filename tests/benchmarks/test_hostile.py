"""The hostile loads of the benchmarks, each against a small daemon."""

from __future__ import annotations

import pytest

from benchmarks import hostile
from benchmarks.hostile_loads import LOADS
from benchmarks.managers import HostManager


def test_every_load_has_a_description() -> None:
    assert all(load.__doc__ for load in LOADS.values())


@pytest.mark.parametrize("load", ["largest-filters", "idle-connections"])
def test_admins_get_answers_during_a_load(load: str) -> None:
    with HostManager(1) as ours, hostile._attack(load, ours.socket):
        admins = ours.socket.with_name("hm-admin.sock")
        assert hostile._new_connection(admins) < hostile.LONGEST * 1e3


def test_a_connection_without_an_answer_exceeds_the_limit() -> None:
    with HostManager(1) as ours:
        assert hostile._new_connection(ours.socket.with_name("no.sock")) > hostile.LONGEST * 1e3
