"""Tests of the cache of container facts: ends for lack of memory."""

from __future__ import annotations

from dataclasses import replace

from hostmanager_server.drivers.compose.engine.container import Container
from hostmanager_server.drivers.compose.engine.container_cache import ContainerCache

RUNNING = Container(
    id="c", name="lab-a-1", project="lab", service="a", number=1, config_files=(), config_hash="", image="i",
    running=True, status="running", exit_code=0, started=100.0, finished=None, pid=7, health="", tty=False,
)  # fmt: skip


def cache_of(container: Container = RUNNING) -> ContainerCache:
    cache = ContainerCache()
    cache.add([container])
    return cache


def ended(cache: ContainerCache, code: int = 137, at: float = 110.0) -> Container:
    (container,) = cache.fold_end("c", code, at)
    return container


def test_an_end_soon_after_an_oom_event_is_for_lack_of_memory() -> None:
    cache = cache_of()
    cache.fold_oom("c", 109.9)
    assert ended(cache).oom_killed
    # The inspection afterwards is no news, although the engine's flag may be missing.
    inspected = replace(RUNNING, running=False, status="exited", exit_code=137, finished=110.0, pid=0)
    assert cache.fold_inspection(inspected) == ()


def test_other_ends_are_not_for_lack_of_memory() -> None:
    assert not ended(cache_of()).oom_killed
    cache = cache_of()
    cache.fold_oom("c", 105.0)
    assert not ended(cache, code=0).oom_killed
    cache = cache_of()
    cache.fold_oom("c", 105.0)
    assert not ended(cache, at=130.0).oom_killed  # a child was killed, long before
    cache = cache_of()
    cache.fold_oom("c", 99.0)  # in the run before
    assert not ended(cache, at=101.0).oom_killed


def test_the_flag_of_an_earlier_run_does_not_count_for_the_next_end() -> None:
    cache = cache_of(
        replace(RUNNING, running=False, exit_code=137, finished=90.0, started=80.0, oom_killed=True)
    )
    cache.fold_start(RUNNING, 100.0)
    assert not ended(cache).oom_killed
    inspected = replace(
        RUNNING, running=False, status="exited", exit_code=137, finished=110.0, oom_killed=True
    )
    cache.fold_inspection(inspected)
    found = cache.get("c")
    assert found is not None
    assert not found.oom_killed
