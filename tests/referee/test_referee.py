"""Some rounds of the referee, and mutants that the referee must detect; `make torture` plays many more."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hostmanager_server.failpoints import Point
from hostmanager_server.linux.spawning import LIBRARY

from tests.referee.daemons import command_of
from tests.referee.invariants import Breach, Invariant
from tests.referee.match import Match
from tests.referee.mutant import REPLACED, Mutant
from tests.referee.rounds import Round, Rounds
from tests.referee.switch_user import interpreter_for

pytestmark = pytest.mark.xdist_group("referee")  # one worker plays the whole match

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


@pytest.mark.parametrize("mutant", Mutant)
def test_a_mutant_replaces_methods_that_the_daemon_has(mutant: Mutant) -> None:
    module, name, replacement = REPLACED[mutant]
    original = getattr(module, name)
    if isinstance(replacement, type):
        methods = [name for name, value in vars(replacement).items() if inspect.isfunction(value)]
        assert methods
        assert all(hasattr(original, method) for method in methods)
        assert issubclass(replacement, original)
    else:
        assert callable(original)


@pytest.mark.parametrize(("number", "point"), list(enumerate(Point)), ids=[point.value for point in Point])
def test_a_daemon_may_die_at_any_step_of_its_work(rounds: Rounds, number: int, point: Point) -> None:
    rounds.play_plan(Round.at(point), number)
    assert rounds.tally.points[point.value] == 1


def test_the_last_daemon_after_all_failpoints_stops_everything(rounds: Rounds) -> None:
    rounds.finish()


def test_random_deaths_as_a_plain_user_violate_no_invariant() -> None:
    words = ["--rounds", "2", "--seed", "1"]
    if os.geteuid() == 0:
        try:
            interpreter_for("nobody")
        except LookupError as error:
            pytest.skip(str(error))
        words += ["--user", "nobody"]
    done = referee(*words)
    assert done.returncode == 0, done.stderr


def test_a_daemon_that_follows_a_link_in_the_log_directory_is_detected(tmp_path: Path) -> None:
    # As `python -m tests.referee --mutant trusting` does with the load of its rounds.
    match = Match(tmp_path, seed=1, program=command_of(Mutant.TRUSTING))
    rounds = Rounds(match)
    plan = replace(Round.at(Point.SPAWNED), failpoint=None, load=1.0)

    def play() -> None:
        for number in range(1, 11):
            rounds.play_plan(plan, number)

    try:
        with pytest.raises(Breach) as found:
            play()
    finally:
        match.close()
    assert found.value.invariant is Invariant.I10


@pytest.mark.parametrize("mutant", [Mutant.NAIVE, Mutant.OPEN_GATE])
def test_a_daemon_that_records_an_agent_after_its_start_is_detected(tmp_path: Path, mutant: Mutant) -> None:
    # Random rounds detect the mutants within 60: `python -m tests.referee --mutant naive --rounds 60`.
    if mutant is Mutant.NAIVE and not LIBRARY.exists():
        pytest.skip("the agents of a daemon without the library of starts go through the gate")
    match = Match(tmp_path, seed=1, program=command_of(mutant))
    rounds = Rounds(match)

    def play() -> None:
        for number in range(1, 4):
            rounds.play_plan(Round.at(Point.SPAWNED), number)

    try:
        with pytest.raises(Breach) as found:
            play()
    finally:
        match.close()
    # The unrecorded agent runs next to its replacement, or earlier, while the daemon shows `down`.
    assert found.value.invariant in (Invariant.I1, Invariant.I8)


def test_a_daemon_that_trusts_a_forged_record_is_detected(tmp_path: Path) -> None:
    match = Match(tmp_path, seed=1, program=command_of(Mutant.CREDULOUS))
    try:
        if match.host.forger is None or not match.host.forger.held:
            pytest.skip("forging a record needs namespaces, which this kernel does not allow")
        with pytest.raises(Breach) as found:
            Rounds(match).play(0)
    finally:
        match.close()
    assert found.value.invariant is Invariant.I7
