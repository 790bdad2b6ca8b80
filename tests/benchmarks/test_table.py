"""Results of benchmarks: verdicts, ratios and the table."""

from __future__ import annotations

import math

import pytest

from benchmarks.table import Row, percentile, render


@pytest.mark.parametrize(("ours", "met"), [(2.9, True), (3.0, True), (3.1, False)])
def test_a_row_is_met_up_to_its_reach(ours: float, met: object) -> None:
    assert Row("x", "ms", ours, reach=3).met is met


@pytest.mark.parametrize(("ours", "met"), [(150.0, True), (151.0, False)])
def test_a_reach_may_be_a_multiple_of_a_peer(ours: float, met: object) -> None:
    assert Row("x", "ms", ours, {"bare loop": 100.0}, reach=1.5, reach_of="bare loop").met is met


@pytest.mark.parametrize(("ours", "met"), [(8.9, True), (9.1, False)])
def test_a_row_is_met_within_the_bounds_of_all_peers(ours: float, met: object) -> None:
    row = Row("x", "ms", ours, {"runit": 10.0, "pm2": 100.0}, bounds={"runit": 0.9, "pm2": 0.25})
    assert row.met is met
    assert row.to_reach == "0.9 x runit, 0.25 x pm2"


def test_the_bound_of_a_peer_that_was_not_measured_is_left_out() -> None:
    row = Row("x", "ms", 20.0, {"pm2": 100.0}, bounds={"runit": 0.9, "pm2": 0.25})
    assert row.met is True
    assert row.to_reach == "0.25 x pm2"
    alone = Row("x", "ms", 20.0, bounds={"runit": 0.9}, reach=1.5, reach_of="s6")
    assert alone.met is None
    assert alone.to_reach == ""


def test_the_table_tells_the_load_of_each_row() -> None:
    assert "0.12, 80 processes |" in render([Row("x", "ms", 1.0, load="0.12, 80 processes")])


def test_a_row_without_a_reach_has_no_verdict() -> None:
    assert Row("x", "ms", 1.0).met is None


def test_a_ratio_says_how_many_times_ours_the_peer_takes() -> None:
    assert Row("x", "ms", 2.0, {"peer": 500.0}).ratios == {"peer": 250.0}


def test_a_figure_of_zero_has_an_infinite_ratio() -> None:
    row = Row("x", "1/s", 0.0, {"peer": 2.0})
    assert row.ratios == {"peer": math.inf}
    assert row.as_dict()["ratios"] == {"peer": None}  # JSON has no infinity


def test_a_percentile_is_one_of_the_values_in_any_order() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert percentile(values, 0.5) == 51.0
    assert percentile(values, 0.99) == 100.0
    assert percentile([7.0], 0.99) == 7.0


def test_the_table_is_aligned_and_does_not_hide_a_miss() -> None:
    rows = [Row("short", "ms", 1.0, {"peer": 4.0}, reach=3), Row("a longer name", "ms", 1234.0, reach=3)]
    header, rule, first, second = render(rows).splitlines()
    assert {len(header), len(rule), len(first)} == {len(second)}
    assert "| met" in first
    assert "peer 4x" in first
    assert "1234 ms" in second
    assert "MISSED" in second
