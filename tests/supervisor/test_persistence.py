"""What is to outlive the daemon is acknowledged when it is on disk, not before; and is written once."""

from __future__ import annotations

from concurrent.futures import Future

import pytest
from hostmanager_server.core.events import ExitStatus, Instant
from hostmanager_server.core.history import History, history_of
from hostmanager_server.core.manager_status import ManagerState
from hostmanager_server.core.model import Exit, Instance, new_instance
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
    """Has stored when the test says so."""

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


def test_a_request_for_what_is_being_written_waits_for_that(journal: SlowJournal) -> None:
    memory = Persistence(journal, Recovered())
    first = memory.save(RUNNING, tracked())
    second = memory.save(RUNNING, tracked())
    assert first is not None
    assert second is first
    journal.saves[0].set_result(None)
    assert memory.save(RUNNING, tracked()) is None
    assert len(journal.saves) == 1


def test_a_request_for_what_could_not_be_written_waits_for_it_to_be(journal: SlowJournal) -> None:
    memory = Persistence(journal, Recovered())
    memory.save(RUNNING, tracked())
    for number in range(2):
        journal.saves[number].set_exception(OSError("no room"))
        again = memory.save(RUNNING, tracked())
        assert again is journal.saves[number + 1]
        assert not again.done()
    journal.saves[2].set_result(None)
    assert memory.save(RUNNING, tracked()) is None


def test_nothing_is_written_of_an_instance_that_nothing_happened_to(journal: SlowJournal) -> None:
    memory = Persistence(journal, Recovered())
    memory.save(RUNNING, tracked())
    memory.save_histories(tracked(runs=1), ["a"])
    assert len(journal.saves) == 1
    assert journal.histories == {}


def test_that_failures_grow_old_is_not_written(journal: SlowJournal) -> None:
    memory = Persistence(journal, Recovered())
    failed = tracked(failures=1, restarts=1, fail_times=(NOW, NOW.plus(1.0)), last_exit=EXIT)
    memory.save(RUNNING, failed, ["a"])
    memory.save_histories({"a": with_fields(failed["a"], fail_times=(NOW.plus(1.0),))}, ["a"])
    memory.save_histories({"a": with_fields(failed["a"], fail_times=())}, ["a"])
    assert len(journal.saves) == 1
    more = {"a": with_fields(failed["a"], fail_times=(NOW.plus(2.0),))}
    memory.save_histories(more, ["a"])
    assert journal.histories == {"a": history_of(more["a"])}


def test_the_history_of_what_is_gone_is_forgotten(journal: SlowJournal) -> None:
    journal.histories = {"gone": History("Agent", Management.HOST, finished=True)}
    memory = Persistence(journal, Recovered(histories=dict(journal.histories)))
    memory.to_restore(tracked())
    memory.save(RUNNING, tracked(last_exit=EXIT), ["a"])
    assert list(journal.histories) == ["a"]
    memory.save(RUNNING, {}, ["a"])
    assert journal.histories == {}


def test_what_is_brought_down_at_the_end_is_not_remembered_as_asked_for(journal: SlowJournal) -> None:
    memory = Persistence(journal, Recovered())
    memory.save(RUNNING, tracked())
    memory.keep()
    assert memory.save(ManagerState.STOPPING, tracked(target=Target.DOWN)) is None
    assert len(journal.saves) == 1
