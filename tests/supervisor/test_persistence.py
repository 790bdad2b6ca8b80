"""Persistence: one write for each change, and an answer once the change is on disk."""

from __future__ import annotations

from concurrent.futures import Future

import pytest
from hostmanager_server.core.events import ExitStatus, Instant
from hostmanager_server.core.history import History, history_of
from hostmanager_server.core.manager_status import ManagerState
from hostmanager_server.core.model import Exit, Instance, Outcome, new_instance
from hostmanager_server.core.recovery import Recovered
from hostmanager_server.core.spec import Management, Target
from hostmanager_server.supervisor.persistence import Persistence

from tests.core.instances import with_fields
from tests.in_memory import MemoryJournal
from tests.supervisor.conftest import spec

RUNNING = ManagerState.RUNNING
NOW = Instant(100.0, 1e9)
EXIT = Exit(ExitStatus(code=1), NOW, False, "ended with code 1")


class SlowJournal(MemoryJournal):
    """A journal that the test tells when a write is done."""

    def __init__(self) -> None:
        super().__init__()
        self.saves: list[Future[None]] = []

    def _written(self) -> Future[None]:
        self.saves.append(Future())
        return self.saves[-1]


@pytest.fixture
def journal() -> SlowJournal:
    return SlowJournal()


def tracked(**changes: object) -> dict[str, Instance]:
    return {"a": with_fields(new_instance(spec("a")), **changes)}


def test_a_request_waits_for_an_unfinished_write_of_the_same_change(journal: SlowJournal) -> None:
    persistence = Persistence(journal, Recovered())
    first = persistence.save(RUNNING, tracked())
    second = persistence.save(RUNNING, tracked())
    assert first is not None
    assert second is first
    journal.saves[0].set_result(None)
    assert persistence.save(RUNNING, tracked()) is None
    assert len(journal.saves) == 1


def test_a_request_waits_for_the_repetition_of_a_failed_write(journal: SlowJournal) -> None:
    persistence = Persistence(journal, Recovered())
    persistence.save(RUNNING, tracked())
    for number in range(2):
        journal.saves[number].set_exception(OSError("no room"))
        again = persistence.save(RUNNING, tracked())
        assert again is journal.saves[number + 1]
        assert not again.done()
    journal.saves[2].set_result(None)
    assert persistence.save(RUNNING, tracked()) is None


def test_an_instance_without_a_history_causes_no_write(journal: SlowJournal) -> None:
    persistence = Persistence(journal, Recovered())
    persistence.save(RUNNING, tracked())
    persistence.save_histories(tracked(runs=1), ["a"])
    assert len(journal.saves) == 1
    assert journal.histories == {}


def test_outdated_failures_cause_no_write(journal: SlowJournal) -> None:
    persistence = Persistence(journal, Recovered())
    failed = tracked(failures=1, restarts=1, fail_times=(NOW, NOW.plus(1.0)), last_exit=EXIT)
    persistence.save(RUNNING, failed, ["a"])
    persistence.save_histories({"a": with_fields(failed["a"], fail_times=(NOW.plus(1.0),))}, ["a"])
    persistence.save_histories({"a": with_fields(failed["a"], fail_times=())}, ["a"])
    assert len(journal.saves) == 1
    more = {"a": with_fields(failed["a"], fail_times=(NOW.plus(2.0),))}
    persistence.save_histories(more, ["a"])
    assert journal.histories == {"a": history_of(more["a"])}


def test_the_history_of_a_removed_instance_is_forgotten(journal: SlowJournal) -> None:
    journal.histories = {"gone": History("Agent", Management.HOST, outcome=Outcome.COMPLETED)}
    persistence = Persistence(journal, Recovered(histories=dict(journal.histories)))
    persistence.take_recovered()
    persistence.save(RUNNING, tracked(last_exit=EXIT), ["a"])
    assert list(journal.histories) == ["a"]
    persistence.save(RUNNING, {}, ["a"])
    assert journal.histories == {}


def test_a_stop_at_the_end_of_the_daemon_is_not_stored_as_a_target(journal: SlowJournal) -> None:
    persistence = Persistence(journal, Recovered())
    persistence.save(RUNNING, tracked())
    persistence.close()
    assert persistence.save(ManagerState.STOPPING, tracked(target=Target.DOWN)) is None
    assert len(journal.saves) == 1
