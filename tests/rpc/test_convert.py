"""Messages made from values of the core."""

from __future__ import annotations

from hostmanager_server.core.events import ExitStatus, Instant
from hostmanager_server.core.model import Exit
from hostmanager_server.rpc import convert


def test_an_end_tells_limit_core_dump_and_last_output_apart_from_its_message() -> None:
    status = ExitStatus(signal=24, core_dumped=True, limit="cpu")
    ended = Exit(status, Instant(1.0, 2.0), False, "ended", last_output="one\ntwo")
    message = convert.exit_(ended)
    assert (message.signal, message.limit, message.core_dumped) == ("SIGXCPU", "cpu", True)
    assert (message.last_output, message.message) == ("one\ntwo", "ended")
