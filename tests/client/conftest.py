"""Fixtures: a fake daemon, and clients of both kinds."""

from __future__ import annotations

import asyncio
import inspect
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from hostmanager_client import AsyncHostManagerClient, HostManagerClient, Reconnect

from tests.client.fake_daemon import FakeDaemon

QUICK = Reconnect(first=0.01, longest=0.05)

# A factory of clients for a fake daemon; the fixture closes the clients.
MakeClient = Callable[..., Any]


class Blocking:
    """A blocking wrapper of the asyncio client, so that the same tests run on both kinds."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

        async def make() -> AsyncHostManagerClient:
            return AsyncHostManagerClient(*args, **kwargs)

        self.client = self.run(make())

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.client, name)
        streams = ("watch", "watch_events", "watch_usage", "tail_logs", "tail_all_logs")
        if inspect.isasyncgenfunction(value) or name in streams:
            return lambda *args, **kwargs: self.iterate(value(*args, **kwargs))
        if inspect.iscoroutinefunction(value):
            return lambda *args, **kwargs: self.run(value(*args, **kwargs))
        return value

    def iterate(self, items: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self.run(anext(items))
                except StopAsyncIteration:
                    return
        finally:
            self.run(items.aclose())

    def close(self) -> None:
        self.run(self.client.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(30)
        self.loop.close()


@pytest.fixture
def socket() -> Iterator[Path]:
    # The path of a unix socket is at most 107 bytes long, which tmp_path can exceed.
    with tempfile.TemporaryDirectory(prefix="hm-") as directory:
        yield Path(directory) / "hostmanager.sock"


@pytest.fixture
def daemon(socket: Path) -> Iterator[FakeDaemon]:
    daemon = FakeDaemon(socket)
    daemon.start()
    yield daemon
    daemon.stop()


@pytest.fixture(params=["sync", "asyncio"])
def make_client(request: pytest.FixtureRequest) -> Iterator[MakeClient]:
    made: list[Any] = []

    def make(daemon: FakeDaemon, **kwargs: Any) -> Any:
        kind: Any = HostManagerClient if request.param == "sync" else Blocking
        kwargs.setdefault("reconnect", QUICK)
        made.append(kind(str(daemon.socket), **kwargs))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def client(make_client: MakeClient, daemon: FakeDaemon) -> Any:
    return make_client(daemon)
