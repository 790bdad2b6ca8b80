"""The driver interfaces that RPCs need, with the values that pass through them.

Every other module of this package knows the drivers only through this one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import ClassVar, Protocol

from hostmanager.values import dataclass

from hostmanager_server.core.events import ProbeAnswer
from hostmanager_server.core.spec import LogPolicy
from hostmanager_server.core.usage import MeasuredRun, Usage
from hostmanager_server.drivers.compose.logs.demultiplexer import LogsError, OutputLine, Source
from hostmanager_server.drivers.compose.pull.progress import (
    ImageProgress,
    LayerProgress,
    PullItem,
    PullState,
)
from hostmanager_server.drivers.compose.pull.progress_board import PullChanges
from hostmanager_server.drivers.output.directory_walk import RefusedFileError
from hostmanager_server.drivers.output.tail import RunWindow
from hostmanager_server.drivers.output.wanted_lines import NoSuchRunError, WantedLines

__all__ = [
    "DockerEngine",
    "ImageProgress",
    "LayerProgress",
    "Line",
    "LogsError",
    "NoSuchRunError",
    "OutputLine",
    "OutputReader",
    "OwnLog",
    "PullChanges",
    "PullItem",
    "PullProgress",
    "PullState",
    "RefusedFileError",
    "RunWindow",
    "Source",
    "UsageSource",
    "WantedLines",
]


@dataclass(frozen=True, slots=True)
class OwnLog:
    """The place of the daemon's own log: its file's policy, or the command that shows the journal."""

    NAME: ClassVar[str] = "daemon"  # of the file, without its suffix

    policy: LogPolicy | None
    command: str = ""


class Line(Protocol):
    """A line of output, or a part of a long line."""

    @property
    def text(self) -> str:
        """Return the text without the line end."""

    @property
    def continues(self) -> bool:
        """Return whether the next line carries on the same line of output."""

    @property
    def time(self) -> float:
        """Return when the line was written, in s since 1970; 0 if unknown."""


class OutputReader(Protocol):
    """Access to the output files of native processes."""

    def read(
        self,
        instance_id: str,
        policy: LogPolicy,
        wanted: WantedLines,
        *,
        window: RunWindow | None = None,
    ) -> AsyncGenerator[Sequence[Line], None]:
        """Yield the wanted lines, then with `follow` an empty batch and every new line, in batches.

        With `window`, the reader ends with a run. Raises RefusedFileError when the files are not safe to
        read, and NoSuchRunError.
        """


class LivenessAnswers(Protocol):
    """The newest answers of liveness probes; see drivers.exec.liveness."""

    def of(self, instance_id: str, run_number: int) -> ProbeAnswer | None:
        """Return the newest answer about a run, or None. Callable from any thread."""


class UsageSource(Protocol):
    """The measurement of runs; see drivers.usage.meter."""

    def measure(self, runs: Sequence[MeasuredRun]) -> Mapping[str, Usage]:
        """Return the use of each run by instance id, without those that have ended. Blocks."""


class PullProgress(Protocol):
    """One client's view of a running pull; see drivers.compose.pull."""

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call `listener`, on any thread, after every change."""

    def unsubscribe(self, listener: Callable[[], None]) -> None:
        """Stop calling `listener`."""

    def changes(self, since: int) -> PullChanges:
        """Return the images that changed after version `since`; -1 returns all."""

    def counts(self) -> Mapping[PullState, int]:
        """Return the number of images in each state."""

    def leave(self) -> None:
        """Stop following; the pull ends with its last follower unless detached."""


class DockerEngine(Protocol):
    """The Docker Engine, as far as clients may use it; see drivers.compose.access."""

    @property
    def pulling(self) -> bool:
        """Return whether a pull is running that a client can join. Returns at once."""

    def problem(self) -> str:
        """Return why the engine cannot be used; empty if it can. Blocks."""

    def join_pull(
        self,
        items: Sequence[PullItem],
        *,
        detach: bool,
        progress_timeout: float,
        ended: Callable[[Sequence[ImageProgress]], None],
    ) -> tuple[PullProgress, bool]:
        """Start a pull, or join the running one (True). Returns at once.

        The pull calls `ended` on another thread. A pull that makes no progress for `progress_timeout` s
        fails. With `detach` the pull goes on without followers.
        """

    async def remove_container(
        self, container_id: str, stop_timeout: float, is_orphan: Callable[[], bool]
    ) -> str:
        """Stop and remove a container that is still an orphan.

        Returns the reason when the container stays, empty when the container is removed. The engine kills a
        container that does not stop within `stop_timeout` s.
        """

    def read_logs(
        self, containers: AsyncIterator[Sequence[str]], wanted: WantedLines
    ) -> AsyncGenerator[list[OutputLine], None]:
        """Yield the wanted lines of a service, then with `follow` an empty batch and every new line.

        `containers` yields the container ids of the service now, and again after every change. Raises
        LogsError when the engine does not deliver the output.
        """
