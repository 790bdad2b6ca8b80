"""Starts of containers by compose, for services with hooks, and the interrupt of the calls of a start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hostmanager_server.core.spec import ServiceSpec
from hostmanager_server.drivers.compose.cli.creates import KILL_DELAY, CreateQueue
from hostmanager_server.drivers.compose.cli.process import CallKind, ComposeCalls
from hostmanager_server.drivers.compose.cli.program import ComposeError
from hostmanager_server.drivers.compose.starts.start import Start
from hostmanager_server.drivers.contract import Poller

# Returns the command line of a call: the verb with its options, and the services.
MakeCommand = Callable[[Sequence[str], Sequence[ServiceSpec]], list[str]]


class ComposeStarts:
    """The calls of compose that start containers."""

    def __init__(
        self, poller: Poller, calls: ComposeCalls, creates: CreateQueue, command: MakeCommand
    ) -> None:
        self._poller = poller
        self._calls = calls
        self._creates = creates
        self._command = command

    def start(self, start: Start, done: Callable[[str], None]) -> None:
        """Have compose start the containers of a service, which exist."""
        try:
            argv = self._command(["up", "--detach", "--no-recreate"], [start.wanted])
        except ComposeError as error:
            done(str(error))
        else:
            folder = str(Path(start.wanted.files[0]).parent)
            start.call = self._calls.start(CallKind.START, argv, folder, done)

    def interrupt(self, start: Start) -> bool:
        """Interrupt the calls of a start; return whether the end of one must be awaited."""
        if start.fetch is not None:
            start.fetch.abort()
        if start.creation is not None:
            return not self._creates.withdraw(start.creation)
        if start.call is not None:
            start.call.interrupt()
            self._poller.call_later(KILL_DELAY, start.call.kill)
            return True
        return False
