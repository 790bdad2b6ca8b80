"""Rows of the journal, pending changes to them, and the JSON encoding of histories."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, TypeVar

from hostmanager.values import dataclass, field

from hostmanager_server.core.history import History
from hostmanager_server.core.model import Job, Outcome
from hostmanager_server.core.origin import RequestOrigins
from hostmanager_server.core.spec import Management, Schedule, Target
from hostmanager_server.state.schema import Table
from hostmanager_server.state.stored_values import (
    read_exit,
    read_instant,
    read_origin,
    write_exit,
    write_instant,
    write_origin,
)

_compact = json.JSONEncoder(separators=(",", ":")).encode

ItemT = TypeVar("ItemT")

_ROWS_OF_STATEMENT = 400  # SQLite before 3.32 takes 999 values in a statement
_COLUMNS = {Table.META: "key", Table.TARGETS: "instance_id", Table.HISTORY: "instance_id"}


@dataclass(frozen=True, slots=True)
class Rows:
    """The values of rows by table and key; None deletes the row."""

    of: dict[Table, dict[str, str | None]] = field(default_factory=lambda: {table: {} for table in Table})

    def __bool__(self) -> bool:
        return any(self.of.values())

    def __len__(self) -> int:
        return sum(map(len, self.of.values()))

    def update(self, later: Rows) -> None:
        """Apply later changes on top of these."""
        for table, rows in later.of.items():
            self.of[table].update(rows)

    def drop_deleted(self) -> None:
        """Drop the rows marked as deleted, once the file no longer holds them."""
        for rows in self.of.values():
            for key in [key for key, value in rows.items() if value is None]:
                del rows[key]

    def write(self, db: sqlite3.Connection) -> None:
        """Write the changes to the database; the caller opens the transaction."""
        for table, rows in self.of.items():
            kept = [item for item in rows.items() if item[1] is not None]
            for part in _parts(kept):
                pairs = ", ".join(["(?, ?)"] * len(part))
                values = [text for item in part for text in item]
                db.execute(f"INSERT OR REPLACE INTO {table.value} VALUES {pairs}", values)
            for gone in _parts([key for key, value in rows.items() if value is None]):
                keys = ", ".join("?" * len(gone))
                db.execute(f"DELETE FROM {table.value} WHERE {_COLUMNS[table]} IN ({keys})", gone)


def _parts(items: list[ItemT]) -> Iterator[list[ItemT]]:
    """Yield the items in parts, each for one statement.

    Around each statement the module sqlite3 hands the interpreter to another thread and takes it back, so a
    statement for each row would slow down the supervisor while it starts or stops all instances.
    """
    for start in range(0, len(items), _ROWS_OF_STATEMENT):
        yield items[start : start + _ROWS_OF_STATEMENT]


def read_rows(db: sqlite3.Connection) -> Rows:
    """Return all rows of the database."""
    return Rows({table: dict(db.execute(f"SELECT * FROM {table.value}")) for table in Table})


# --- origins, in the table of single values, which every version of the schema has

ORIGIN_KEY = "origin/"  # before the id of the instance


def encode_origins(origins: RequestOrigins) -> str:
    """Return the origins of an instance's target and last restart as compact JSON."""
    pairs = (("target", origins.target), ("restart", origins.restart))
    return _compact({name: write_origin(origin) for name, origin in pairs if origin is not None})


def decode_origins(rows: Rows) -> dict[str, RequestOrigins]:
    """Return the origins by instance id; those that cannot be read are left out: they are only shown."""
    found = {}
    for key, text in rows.of[Table.META].items():
        if key.startswith(ORIGIN_KEY) and text is not None:
            with suppress(ValueError, KeyError, TypeError, AttributeError):
                values = json.loads(text)
                target, restart = (
                    read_origin(values[name]) if name in values else None for name in ("target", "restart")
                )
                found[key.removeprefix(ORIGIN_KEY)] = RequestOrigins(target, restart)
    return found


# --- histories, as JSON


def encode_history(history: History) -> str:
    """Return the history as compact JSON, as the column `record` holds it."""
    return _compact(
        {
            "agent_class": history.agent_class,
            "management": history.management.value,
            "runs": history.runs,
            "restarts": history.restarts,
            "failures": history.failures,
            "fail_times": [write_instant(t) for t in history.fail_times],
            "last_exit": write_exit(history.last_exit) if history.last_exit is not None else None,
            "start_error": history.start_error,
            "retry_at": write_instant(history.retry_at) if history.retry_at is not None else None,
            "finished": history.outcome is not None,  # read by versions before `outcome`
            "outcome": history.outcome.value if history.outcome is not None else None,
            "under_way": history.started_once,
            "restart_of": history.restart_of,
            "next_run": history.next_run,
            "schedule": _schedule(history.schedule) if history.schedule is not None else None,
            "job": _job(history.job) if history.job is not None else None,
        }
    )


def decode_history(text: str) -> History:
    """Return the history in a JSON text; raises ValueError unless `encode_history` wrote the text."""
    try:
        record = json.loads(text)
        return History(
            agent_class=str(record["agent_class"]),
            management=Management(record["management"]),
            runs=int(record["runs"]),
            restarts=int(record["restarts"]),
            failures=int(record["failures"]),
            fail_times=tuple(map(read_instant, record["fail_times"])),
            last_exit=read_exit(record["last_exit"]) if record["last_exit"] is not None else None,
            start_error=str(record["start_error"]),
            retry_at=read_instant(record["retry_at"]) if record["retry_at"] is not None else None,
            outcome=_read_outcome(record),
            started_once=bool(record["under_way"]),
            restart_of=int(record.get("restart_of", 0)),
            next_run=float(record["next_run"]) if record.get("next_run") is not None else None,
            schedule=Schedule(*record["schedule"]) if record.get("schedule") is not None else None,
            job=_read_job(record["job"]) if record.get("job") is not None else None,
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"cannot read the history of an instance: {error!r}") from error


def _read_outcome(record: Any) -> Outcome | None:
    if not record["finished"]:
        return None
    if "outcome" in record:
        return Outcome(record["outcome"])
    end = record["last_exit"]  # of a version that told no failure from a success
    return Outcome.COMPLETED if end is not None and end["code"] == 0 else Outcome.FAILED


def _schedule(schedule: Schedule) -> list[Any]:
    return [schedule.cron, schedule.timezone, schedule.catch_up]


def _job(job: Job) -> dict[str, Any]:
    after = job.target_after.value if job.target_after is not None else None
    return {"arguments": list(job.arguments), "once": job.once, "target_after": after}


def _read_job(value: Any) -> Job:
    after = Target(value["target_after"]) if value["target_after"] is not None else None
    return Job(tuple(map(str, value["arguments"])), bool(value["once"]), after)
