"""Some rounds of the referee, and the mutant that it must find. `make torture` plays many more."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hostmanager_server.failpoints import Point

from tests.referee.become import interpreter_for
from tests.referee.daemons import mutated
from tests.referee.match import Match
from tests.referee.mutant import Mutant
from tests.referee.rounds import Plan, Rounds
from tests.referee.verdict import Invariant, Violation

pytestmark = pytest.mark.xdist_group("referee")  # one match, played by one worker

ROOT = Path(__file__).resolve().parents[2]


def referee(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.referee", *words]
    return subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rounds]:
    match = Match(tmp_path_factory.mktemp("match"), seed=1)
    try:
        yield Rounds(match)
    finally:
        match.close()


@pytest.mark.parametrize(("number", "point"), list(enumerate(Point)), ids=[point.value for point in Point])
def test_a_daemon_may_die_at_any_step_of_its_work(rounds: Rounds, number: int, point: Point) -> None:
    rounds.play_plan(Plan.at(point), number)
    assert rounds.tally.points[point.value] == 1


def test_nothing_is_wrong_at_the_end_of_all_that(rounds: Rounds) -> None:
    rounds.finish()


def test_nothing_is_wrong_when_it_dies_at_random_as_a_plain_user() -> None:
    words = ["--rounds", "2", "--seed", "1"]
    if os.geteuid() == 0:
        try:
            interpreter_for("nobody")
        except LookupError as error:
            pytest.skip(str(error))
        words += ["--user", "nobody"]
    done = referee(*words)
    assert done.returncode == 0, done.stderr


def test_a_daemon_that_follows_a_link_in_the_log_directory_is_found_out(tmp_path: Path) -> None:
    # As by `python -m tests.referee --mutant trusting`, where it is the load of each round.
    match = Match(tmp_path, seed=1, program=mutated(Mutant.TRUSTING))
    rounds = Rounds(match)
    plan = replace(Plan.at(Point.SPAWNED), failpoint=None, load=1.0)

    def play() -> None:
        for number in range(1, 11):
            rounds.play_plan(plan, number)

    try:
        with pytest.raises(Violation) as found:
            play()
    finally:
        match.close()
    assert found.value.invariant is Invariant.I10


def test_a_daemon_that_records_an_agent_after_it_was_started_is_found_out(tmp_path: Path) -> None:
    # By rounds as any other it is within 60: `python -m tests.referee --mutant naive --rounds 60`.
    match = Match(tmp_path, seed=1, program=mutated(Mutant.NAIVE))
    rounds = Rounds(match)

    def play() -> None:
        for number in range(1, 4):
            rounds.play_plan(Plan.at(Point.SPAWNED), number)

    try:
        with pytest.raises(Violation) as found:
            play()
    finally:
        match.close()
    # The one that nobody recorded lives beside its replacement; or before that, while `down` is shown.
    assert found.value.invariant in (Invariant.I1, Invariant.I8)


def test_a_daemon_that_believes_a_forged_record_is_found_out(tmp_path: Path) -> None:
    match = Match(tmp_path, seed=1, program=mutated(Mutant.CREDULOUS))
    try:
        if match.ground.forger is None or not match.ground.forger.held:
            pytest.skip("the kernel allows no namespaces here, in which a record could be forged")
        with pytest.raises(Violation) as found:
            Rounds(match).play(0)
    finally:
        match.close()
    assert found.value.invariant is Invariant.I7
