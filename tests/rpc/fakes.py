"""Fakes of the driver interfaces that RPCs need."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass

from hostmanager_server.core.spec import LogPolicy
from hostmanager_server.core.usage import MeasuredRun, Usage
from hostmanager_server.drivers.output.wanted_lines import WantedLines
from hostmanager_server.rpc.ports import (
    ImageProgress,
    Line,
    OutputLine,
    PullChanges,
    PullItem,
    PullState,
    RunWindow,
    Source,
)


@dataclass(frozen=True, slots=True)
class TextLine:
    text: str
    continues: bool = False
    time: float = 0.0


class FakeOutputs:
    """Output files with the lines 1 to 5 for every instance, and no new lines."""

    async def read(
        self,
        instance_id: str,
        policy: LogPolicy,
        wanted: WantedLines,
        *,
        window: RunWindow | None = None,
    ) -> AsyncGenerator[Sequence[Line], None]:
        last = [TextLine(f"{instance_id} {n}") for n in range(1, 6)][5 - min(wanted.lines, 5) :]
        if last:
            yield last
        if window is not None:
            window.opened.set()
            await window.ended.wait()
            yield [TextLine(f"{instance_id} has run")]
        elif wanted.follow:
            await asyncio.Event().wait()


class FakePull:
    """A pull whose progress the test sets."""

    def __init__(self, items: Sequence[PullItem], ended: Callable[[Sequence[ImageProgress]], None]) -> None:
        self.ended = ended
        self.images = {item.image: ImageProgress(item.image, item.instance_ids) for item in items}
        self.versions = dict.fromkeys(self.images, 0)
        self.version = 0
        self.over = not items
        self.listeners: list[Callable[[], None]] = []
        self.followers = 0
        self.read_version = -1  # the newest version that a follower has read

    def put(self, image: ImageProgress, *, over: bool = False) -> None:
        self.version += 1
        self.images[image.image] = image
        self.versions[image.image] = self.version
        if over:
            self.ended(list(self.images.values()))
        self.over = over
        for listener in self.listeners:
            listener()

    def subscribe(self, listener: Callable[[], None]) -> None:
        self.listeners.append(listener)

    def unsubscribe(self, listener: Callable[[], None]) -> None:
        self.listeners.remove(listener)

    def changes(self, since: int) -> PullChanges:
        self.read_version = self.version
        changed = tuple(image for name, image in self.images.items() if self.versions[name] > since)
        return PullChanges(self.version, changed, self.over)

    def counts(self) -> Mapping[PullState, int]:
        states = [image.state for image in self.images.values()]
        return {state: states.count(state) for state in PullState}

    def leave(self) -> None:
        self.followers -= 1


class FakeDockerEngine:
    """An engine that is usable unless `failure` is set, and refuses to remove containers in `refusals`."""

    def __init__(self) -> None:
        self.failure = ""
        self.pull: FakePull | None = None
        self.pull_requests: list[tuple[tuple[PullItem, ...], bool, float]] = []
        self.removed: list[tuple[str, float]] = []
        self.refusals: dict[str, str] = {}
        self.on_removal: Callable[[str], None] = lambda _: None

    @property
    def pulling(self) -> bool:
        return self.pull is not None and not self.pull.over

    def problem(self) -> str:
        return self.failure

    def join_pull(
        self,
        items: Sequence[PullItem],
        *,
        detach: bool,
        progress_timeout: float,
        ended: Callable[[Sequence[ImageProgress]], None],
    ) -> tuple[FakePull, bool]:
        self.pull_requests.append((tuple(items), detach, progress_timeout))
        joined = self.pulling
        if self.pull is None or not joined:
            self.pull = FakePull(items, ended)
        self.pull.followers += 1
        return self.pull, joined

    async def read_logs(
        self, containers: AsyncIterator[Sequence[str]], wanted: WantedLines
    ) -> AsyncGenerator[list[OutputLine], None]:
        """Yield a line for each container, in order of arrival."""
        async for ids in containers:
            for container in ids:
                yield [OutputLine(container, False, Source.STDERR)]
            if not wanted.follow:
                return

    async def remove_container(
        self, container_id: str, stop_timeout: float, is_orphan: Callable[[], bool]
    ) -> str:
        await asyncio.sleep(0)  # a real removal takes time on a thread
        if not is_orphan():
            return "the container is no longer an orphan"
        self.removed.append((container_id, stop_timeout))
        if container_id not in self.refusals:
            self.on_removal(container_id)
        return self.refusals.get(container_id, "")


class FakeMeter:
    """A meter with settable numbers, which counts its measurements."""

    def __init__(self) -> None:
        self.measured: list[tuple[str, ...]] = []  # ids of each measurement
        self.cpu_times: dict[str, float] = {}
        self.failure: OSError | None = None

    def measure(self, runs: Sequence[MeasuredRun]) -> dict[str, Usage]:
        if self.failure is not None:
            raise self.failure
        self.measured.append(tuple(run.instance_id for run in runs))
        return {
            run.instance_id: Usage(
                run.number, self.cpu_times.get(run.instance_id, 1.5), memory=4096, processes=1, tasks=2,
                descriptors=3,
            )
            for run in runs
        }  # fmt: skip
