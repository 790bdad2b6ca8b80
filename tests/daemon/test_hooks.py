"""The hooks of failing instances: their number, rate and memory, and events about them."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hostmanager_server.core.event_log import LogEntry, Severity
from hostmanager_server.core.events import Instant
from hostmanager_server.core.failures import CRASHES, Failure
from hostmanager_server.core.model import Instance, Observed, Standing, State, Wanted
from hostmanager_server.core.spec import Hook, InstanceSpec, Management, ProcessSpec, Target
from hostmanager_server.daemon import hooks
from hostmanager_server.daemon.hook_memory import HookMemory
from hostmanager_server.daemon.hooks import HookRunner
from hostmanager_server.drivers.exec.hook_command import HookOutcome

HOOK = Hook(("alert",))
Told = list[tuple[str, str, str]]


@dataclass
class Host:
    """A store and a hub as the hooks see them; `put` publishes a state."""

    instances: dict[str, Any] = field(default_factory=dict)
    revision: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    entries: list[LogEntry] = field(default_factory=list)
    last_sequence: int = 0

    def put(
        self, instance_id: str, failures: int = 0, target: Target = Target.UP, hook: Hook | None = HOOK
    ) -> None:
        spec = InstanceSpec(instance_id, "A", process=ProcessSpec(("x",)), on_failure=hook, on_recover=hook)
        state = State.START_AT if failures else State.UP
        made = Instance(
            spec, Wanted(target, Management.HOST), Observed(), Standing(state, message="m", failures=failures)
        )
        self.instances[instance_id] = Tracked(made)
        self.publish()

    def publish(self) -> None:
        self.revision += 1
        self.changed.set()

    def snapshot(self) -> Any:
        return Snapshot(dict(self.instances))

    def events_since(self, sequence: int) -> Any:
        return Batch(missed=1, last=0)  # every instance may have changed

    @contextmanager
    def watcher(self, silence: float, *, of_client: bool) -> Iterator[Host]:
        yield self

    async def wait(self, revision: int) -> None:
        while self.revision == revision:
            self.changed.clear()
            await self.changed.wait()


@dataclass
class Tracked:
    instance: Instance


@dataclass
class Snapshot:
    instances: Mapping[str, Tracked]

    @property
    def manager(self) -> Any:
        return self

    host = "daq1"


@dataclass
class Batch:
    missed: int
    last: int
    events: tuple[Any, ...] = ()


@dataclass
class Commands:
    """The commands that run; each ends when the test lets it."""

    told: Told = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)
    running: int = 0
    most: int = 0
    problem: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, hook: Hook, facts: Mapping[str, str], document: bytes, *_: object) -> HookOutcome:
        with self.lock:
            self.told.append(
                (facts["HOSTMANAGER_INSTANCE"], facts["HOSTMANAGER_EVENT"], facts["HOSTMANAGER_REASON"])
            )
            self.running += 1
            self.most = max(self.most, self.running)
        self.go.wait(30)
        with self.lock:
            self.running -= 1
        return HookOutcome(0.1, self.problem)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Iterator[Commands]:
    made = Commands()
    made.go.set()
    monkeypatch.setattr(hooks, "run_hook", made.run)
    monkeypatch.setattr(hooks, "_ROUND", 0.001)
    yield made
    made.go.set()


@asynccontextmanager
async def following(host: Host, folder: Path) -> AsyncIterator[HookRunner]:
    clock = asyncio.get_running_loop().time
    runner = HookRunner(
        host, host, HookMemory(folder), host.entries.append,  # type: ignore[arg-type]  # as hooks see them
        lambda: Instant(clock(), 1e9 + clock()), {},
    )  # fmt: skip
    task = asyncio.create_task(runner.follow())
    try:
        yield runner
    finally:
        task.cancel()
        await asyncio.wait([task])
        await runner.close()


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - nothing to wait on
            await asyncio.sleep(0.005)


async def test_a_failure_and_its_end_run_one_command_each(commands: Commands, tmp_path: Path) -> None:
    host = Host()
    async with following(host, tmp_path):
        for failures in range(CRASHES + 3):
            host.put("a", failures)
            await asyncio.sleep(0)
        await until(lambda: len(host.entries) == 1)
        host.put("a", CRASHES + 9)
        host.put("a", target=Target.DOWN)
        await until(lambda: len(host.entries) == 2)
    assert commands.told == [("a", "failure", "CrashLoop"), ("a", "recover", "TargetDown")]
    assert [entry.reason for entry in host.entries] == ["HookRan", "HookRan"]
    assert HookMemory(tmp_path).load() == {}


async def test_few_commands_run_at_once_and_the_others_wait(commands: Commands, tmp_path: Path) -> None:
    commands.go.clear()
    host = Host()
    async with following(host, tmp_path):
        for n in range(8):
            host.put(f"a{n}", CRASHES)
        await until(lambda: commands.running == hooks.AT_ONCE)
        commands.go.set()
        await until(lambda: len(host.entries) == 8)
    assert commands.most == hooks.AT_ONCE
    assert len(set(commands.told)) == 8


async def test_only_so_many_start_within_a_minute(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "PER_MINUTE", 3)
    host = Host()
    async with following(host, tmp_path) as runner:
        for n in range(5):
            host.put(f"a{n}", CRASHES)
        await until(lambda: len(host.entries) == 3)
        host.publish()
        assert len(runner._watch.untold()) == 2
    assert len(commands.told) == 3


async def test_a_command_that_fails_is_an_event_and_not_repeated(commands: Commands, tmp_path: Path) -> None:
    commands.problem = "'alert' ended with code 3"
    host = Host()
    async with following(host, tmp_path):
        host.put("a", CRASHES)
        await until(lambda: len(host.entries) == 1)
        host.put("a", CRASHES + 1)
        host.put("b", CRASHES)
        await until(lambda: len(host.entries) == 2)
    assert (host.entries[0].reason, host.entries[0].severity) == ("HookFailed", Severity.WARNING)
    assert host.entries[0].message == "on-failure: 'alert' ended with code 3"
    assert [told[0] for told in commands.told] == ["a", "b"]


async def test_the_next_daemon_repeats_no_command(commands: Commands, tmp_path: Path) -> None:
    host = Host()
    async with following(host, tmp_path):
        host.put("a", CRASHES)
        await until(lambda: len(host.entries) == 1)
    again = Host()
    again.put("a", CRASHES)
    again.put("b", CRASHES)
    async with following(again, tmp_path):
        await until(lambda: len(again.entries) == 1)
    assert [told[0] for told in commands.told] == ["a", "b"]


async def test_a_failure_is_on_disk_before_its_command_starts(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Failure]] = []

    def run(*arguments: Any) -> HookOutcome:
        seen.append(HookMemory(tmp_path).load())
        return commands.run(*arguments)

    monkeypatch.setattr(hooks, "run_hook", run)
    host = Host()
    async with following(host, tmp_path):
        host.put("a", CRASHES)
        await until(lambda: len(host.entries) == 1)
    assert seen[0]["a"].told


async def test_an_instance_that_left_the_config_recovers_by_its_last_hook(
    commands: Commands, tmp_path: Path
) -> None:
    host = Host()
    async with following(host, tmp_path):
        host.put("a", CRASHES)
        await until(lambda: len(host.entries) == 1)
        del host.instances["a"]
        host.publish()
        await until(lambda: len(host.entries) == 2)
    assert commands.told[-1] == ("a", "recover", "Removed")
    HookMemory(tmp_path).keep({"gone": Failure("GaveUp", "m", 1.0, told=True)})
    async with following(Host(), tmp_path) as runner:
        await until(lambda: not runner._watch.failures)
    assert len(commands.told) == 2  # no command of a former config


async def test_an_instance_without_hooks_runs_nothing(commands: Commands, tmp_path: Path) -> None:
    host = Host()
    async with following(host, tmp_path):
        host.put("plain", CRASHES, hook=None)
        host.put("none", CRASHES, hook=Hook(()))
        host.put("a", CRASHES)
        await until(lambda: len(host.entries) == 1)
    assert commands.told == [("a", "failure", "CrashLoop")]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": {}}', b'{"a": 7}', b"\xff"])
def test_a_damaged_memory_is_empty(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "hooks.json").write_bytes(content)
    assert HookMemory(tmp_path).load() == {}


def test_a_link_or_a_pipe_in_place_of_the_memory_is_not_used(tmp_path: Path) -> None:
    file, other = tmp_path / "hooks.json", tmp_path / "other"
    other.write_text("{}")
    file.symlink_to(other)
    memory = HookMemory(tmp_path)
    assert memory.load() == {}
    memory.keep({"a": Failure("GaveUp", "m", 1.0)})
    assert other.read_text() == "{}"
    assert not file.is_symlink()
    file.unlink()
    os.mkfifo(file)
    assert HookMemory(tmp_path).load() == {}
