"""Runs of earlier daemons, as their runtime records show them."""

from __future__ import annotations

import functools
from collections.abc import Callable

from hostmanager_server.core.spec import InstanceSpec
from hostmanager_server.drivers.contract import Output
from hostmanager_server.drivers.process.main_process import identify_main_process
from hostmanager_server.drivers.process.records.directory import RecordDirectory
from hostmanager_server.drivers.process.records.record import Record
from hostmanager_server.linux import pidfds


def is_of_this_boot(records: RecordDirectory, record: Record) -> bool:
    """Return whether a record is of this boot; void the record of an earlier boot."""
    if record.identity.boot_id == pidfds.boot_id():
        return True
    records.remove(record.run.instance_id)
    return False


def identified(records: RecordDirectory, record: Record) -> Record:
    """Return a record with the numbers of its main process, if only these are missing."""
    found = identify_main_process(record)
    if found is not record:
        records.identify(record.run.instance_id, found.identity)
    return found


def last_output_of(output: Output, record: Record, spec: InstanceSpec | None) -> Callable[[], str]:
    """Return a reader of the last lines of a recorded run; only the spec names the output file."""
    if spec is None:
        return str
    mark = output.resume_mark(spec.instance_id, spec.log, record.output)
    return functools.partial(output.last_output, spec.instance_id, spec.log, mark)
