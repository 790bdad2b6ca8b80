"""The hub: turns of streams between a publication and the work after it."""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack

import pytest
from hostmanager_server.core.manager_status import ManagerState, ManagerStatus
from hostmanager_server.rpc.hub import Hub
from hostmanager_server.state.store import Store

STOPPED = ManagerStatus(ManagerState.STOPPED, "host", "site.yaml")
RUNNING = ManagerStatus(ManagerState.RUNNING, "host", "site.yaml")


async def test_streams_of_clients_run_before_the_publisher_goes_on() -> None:
    store = Store("epoch", STOPPED)
    hub = Hub(store)
    seen: list[int] = []

    async def stream() -> None:
        with hub.watcher(silence=1000) as watcher:
            while len(seen) < 20:
                await watcher.wait(len(seen) + 1)
                seen.append(store.revision)

    task = asyncio.create_task(stream())
    await asyncio.sleep(0)

    def publish() -> list[int]:
        missing = []
        for number in range(20):
            store.publish(manager=RUNNING if number % 2 else STOPPED)
            hub.let_readers_run()
            missing.append(number + 1 - len(seen))
        return missing

    missing = await asyncio.to_thread(publish)
    await task
    assert sum(missing) < 20, missing  # a busy machine may use up the patience of some turns


async def test_a_stuck_event_loop_holds_up_no_publisher() -> None:
    store = Store("epoch", STOPPED)
    hub = Hub(store)
    went_on = threading.Event()

    def publish() -> None:
        store.publish(manager=RUNNING)
        hub.let_readers_run()
        went_on.set()

    with hub.watcher(silence=1000):
        thread = threading.Thread(target=publish)
        thread.start()
        assert went_on.wait(60)  # blocks the loop
        thread.join()


async def test_without_clients_the_publisher_does_not_wait() -> None:
    hub = Hub(Store("epoch", STOPPED))
    with hub.watcher(silence=1000, of_client=False):
        await asyncio.get_running_loop().run_in_executor(None, hub.let_readers_run)


@pytest.mark.parametrize("clients", [0, 1])
async def test_the_streams_of_the_daemon_sleep_until_the_round_of_the_publisher_ends(clients: int) -> None:
    store = Store("epoch", STOPPED)
    hub = Hub(store)
    with ExitStack() as stack:
        own = stack.enter_context(hub.watcher(silence=1000, of_client=False))
        others = [stack.enter_context(hub.watcher(silence=1000)) for _ in range(clients)]
        waiting = asyncio.ensure_future(own.wait(store.revision))
        served = [asyncio.ensure_future(other.wait(store.revision)) for other in others]
        await asyncio.sleep(0)
        await asyncio.to_thread(lambda: store.publish(manager=RUNNING))
        await asyncio.gather(*served)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not waiting.done()
        await asyncio.to_thread(hub.round_ended)
        assert await waiting


async def test_a_watcher_that_comes_between_publication_and_wake_up_misses_nothing() -> None:
    store = Store("epoch", STOPPED)
    hub = Hub(store)
    before = store.revision
    await asyncio.to_thread(lambda: store.publish(manager=RUNNING))
    with hub.watcher(silence=1000) as watcher:
        assert await watcher.wait(before)
        waiting = asyncio.ensure_future(watcher.wait(hub.revision))
        await asyncio.sleep(0)
        await asyncio.to_thread(lambda: store.publish(manager=STOPPED))
        assert await waiting
