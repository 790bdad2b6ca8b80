"""Tests of image pulls on a real engine.

Images come from a real registry, and from registries that stall.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hostmanager_server.core.spec import PullPolicy
from hostmanager_server.drivers.compose.engine.connection import Connection
from hostmanager_server.drivers.compose.pull.progress import ImageProgress, PullItem, PullState
from hostmanager_server.drivers.compose.pull.pull import ImagePull
from hostmanager_server.drivers.compose.pull.puller import Puller

from tests.docker_engine import RealEngine, Registry, unique_name
from tests.drivers.compose.slow_registry import SlowRegistry

DEADLINE = 60.0  # s
NO_IMAGE = "127.0.0.1:9/nobody/listens:1"


def connect_to(engine: RealEngine) -> Connection:
    connection = Connection(engine.host)
    connection.negotiate(10.0)
    return connection


@pytest.fixture
def puller(engine: RealEngine) -> Iterator[Puller]:
    puller = Puller(functools.partial(connect_to, engine))
    yield puller
    puller.close()


@pytest.fixture
def pushed(engine: RealEngine, registry: Registry) -> Iterator[Callable[[], str]]:
    """Return a function that pushes a new image into the registry.

    The engine does not have the image.
    """

    def push(tag: str = "") -> str:
        tag = tag or f"{unique_name()}:1"
        engine.import_image(tag, files={"/id": unique_name().encode()})
        reference = registry.push(engine, tag)
        engine.docker("rmi", tag)
        return reference

    yield push
    registry.remove_pulled(engine)


def result_of(pull: ImagePull) -> dict[str, ImageProgress]:
    pull._thread.join(DEADLINE)
    assert pull.over
    return {image.image: image for image in pull.changes(-1).images}


def item(image: str, policy: PullPolicy = PullPolicy.ALWAYS, *, built: bool = False) -> PullItem:
    return PullItem(image, ("a",), policy, built)


def pull_all(puller: Puller, *items: PullItem) -> dict[str, ImageProgress]:
    pull, _ = puller.join(items, detach=False, progress_timeout=DEADLINE)
    try:
        return result_of(pull)
    finally:
        pull.leave()


def test_a_new_image_is_pulled_with_its_layers_and_then_is_up_to_date(
    engine: RealEngine, puller: Puller, pushed: Callable[[], str]
) -> None:
    image = pushed()
    first = pull_all(puller, item(image))[image]
    assert first.state is PullState.PULLED
    assert [(layer.status, layer.current == layer.total) for layer in first.layers] == [
        ("Pull complete", True)
    ]
    assert engine.docker("inspect", "--format", "{{.Id}}", image) == first.image_id
    again = pull_all(puller, item(image))[image]
    assert (again.state, again.image_id) == (PullState.UP_TO_DATE, first.image_id)


def test_a_failed_image_does_not_stop_the_others(puller: Puller, pushed: Callable[[], str]) -> None:
    image = pushed()
    found = pull_all(puller, item(NO_IMAGE), item(image))
    assert (found[NO_IMAGE].state, found[image].state) == (PullState.FAILED, PullState.PULLED)
    assert "refused" in found[NO_IMAGE].message


def test_the_pull_policy_decides_about_a_pull(puller: Puller, pushed: Callable[[], str]) -> None:
    here, missing = pushed(), pushed()
    pull_all(puller, item(here))
    found = pull_all(
        puller,
        item(here, PullPolicy.MISSING),
        item(missing, PullPolicy.MISSING),
        item(f"{NO_IMAGE}a", PullPolicy.NEVER),
        item(f"{NO_IMAGE}b", PullPolicy.BUILD),
        item(f"{NO_IMAGE}c", built=True),
    )
    assert {name.removeprefix(NO_IMAGE): image.state for name, image in found.items()} == {
        here: PullState.SKIPPED,
        missing: PullState.PULLED,
        "a": PullState.SKIPPED,
        "b": PullState.SKIPPED,
        "c": PullState.SKIPPED,
    }
    assert "to be built here" in found[f"{NO_IMAGE}c"].message


@pytest.fixture
def silent_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowRegistry]:
    """Yield a registry that accepts the password, and never answers afterwards."""
    server = SlowRegistry(wants_password=True)
    auths = {server.address: {"auth": base64.b64encode(b"ann:secret").decode()}}
    (tmp_path / "config.json").write_text(json.dumps({"auths": auths}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    yield server
    server.close()


@pytest.fixture
def slow_registry() -> Iterator[SlowRegistry]:
    """Yield a registry that sends the beginning of a layer, and nothing more."""
    server = SlowRegistry(wants_password=False)
    yield server
    server.close()


def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Create a credential helper for all registries."""
    program = tmp_path / "docker-credential-lab"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    (tmp_path / "config.json").write_text(json.dumps({"credsStore": "lab"}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_a_pull_without_progress_fails(puller: Puller, silent_registry: SlowRegistry) -> None:
    pull, _ = puller.join([item(silent_registry.image)], detach=False, progress_timeout=1.0)
    image = result_of(pull)[silent_registry.image]
    pull.leave()
    assert (image.state, image.message) == (PullState.FAILED, "no progress for 1 s")


def test_credentials_come_from_the_users_docker_config(puller: Puller, silent_registry: SlowRegistry) -> None:
    pull, _ = puller.join([item(silent_registry.image)], detach=False, progress_timeout=DEADLINE)
    assert silent_registry.asked.wait(DEADLINE)
    pull.leave()
    assert silent_registry.credentials == "Basic " + base64.b64encode(b"ann:secret").decode()


def test_a_second_caller_joins_and_the_pull_stops_when_the_last_one_leaves(
    puller: Puller, silent_registry: SlowRegistry
) -> None:
    pull, joined = puller.join([item(silent_registry.image)], detach=False, progress_timeout=DEADLINE)
    other, joined_too = puller.join([item(NO_IMAGE)], detach=False, progress_timeout=1.0)
    assert (joined, joined_too, other is pull) == (False, True, True)
    assert silent_registry.asked.wait(DEADLINE)
    pull.leave()
    assert not pull.over
    other.leave()
    assert result_of(pull)[silent_registry.image].state is PullState.CANCELLED
    assert not puller.running()


def test_a_pull_being_stopped_cannot_be_joined(
    puller: Puller, silent_registry: SlowRegistry, pushed: Callable[[], str]
) -> None:
    image = pushed()
    stopped, _ = puller.join([item(silent_registry.image)], detach=False, progress_timeout=DEADLINE)
    assert silent_registry.asked.wait(DEADLINE)
    stopped.leave()
    pull, joined = puller.join([item(image)], detach=False, progress_timeout=DEADLINE)
    assert not joined
    assert result_of(pull)[image].state is PullState.PULLED
    assert stopped.over, "there is one pull at a time"


def test_a_stalled_layer_fails_and_keeps_its_progress(puller: Puller, slow_registry: SlowRegistry) -> None:
    pull, _ = puller.join([item(slow_registry.image)], detach=False, progress_timeout=5.0)
    image = result_of(pull)[slow_registry.image]
    pull.leave()
    assert (image.state, image.message) == (PullState.FAILED, "no progress for 5 s")
    assert [(layer.status, layer.total) for layer in image.layers] == [("Downloading", 8 << 20)]
    assert 0 < image.layers[0].current <= 1 << 20


def test_a_closed_connection_is_reported_as_the_reason(
    engine: RealEngine, slow_registry: SlowRegistry
) -> None:
    connections: list[Connection] = []

    def connect() -> Connection:
        connections.append(connect_to(engine))
        return connections[-1]

    puller = Puller(connect)
    pull, _ = puller.join([item(slow_registry.image)], detach=False, progress_timeout=DEADLINE)
    assert slow_registry.asked.wait(DEADLINE)
    connections[0].abort()  # looks the same as a close by the engine
    image = result_of(pull)[slow_registry.image]
    puller.close()
    assert image.state is PullState.FAILED
    assert "closed the connection" in image.message


def test_an_endless_connection_attempt_is_given_up() -> None:
    """Check a blocked thread, as with a credential helper or a name server."""
    done = threading.Event()

    def connect() -> Connection:
        done.wait(DEADLINE)
        raise AssertionError("the connection comes too late")

    puller = Puller(connect)
    pull, _ = puller.join(
        [item(NO_IMAGE), item(f"{NO_IMAGE}b", built=True)], detach=False, progress_timeout=1.0
    )
    found = result_of(pull)
    assert found[NO_IMAGE].message == "no progress for 1 s"
    assert found[f"{NO_IMAGE}b"].state is PullState.SKIPPED
    again, joined = puller.join([item(NO_IMAGE)], detach=False, progress_timeout=DEADLINE)
    assert not joined
    puller.close()  # does not wait for the connection attempt
    assert result_of(again)[NO_IMAGE].state is PullState.CANCELLED
    done.set()


def test_credentials_come_from_a_credential_helper(
    puller: Puller, silent_registry: SlowRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(tmp_path, monkeypatch, """read server; echo '{"Username": "'$server'", "Secret": "bob"}'""")
    pull, _ = puller.join([item(silent_registry.image)], detach=False, progress_timeout=DEADLINE)
    assert silent_registry.asked.wait(DEADLINE)
    pull.leave()
    assert (
        silent_registry.credentials
        == "Basic " + base64.b64encode(f"{silent_registry.address}:bob".encode()).decode()
    )


def test_a_failed_credential_helper_is_reported_as_the_reason(
    puller: Puller, silent_registry: SlowRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(tmp_path, monkeypatch, "echo the vault is locked; exit 1")
    assert pull_all(puller, item(silent_registry.image))[silent_registry.image].message == (
        f"cannot get the credentials for {silent_registry.address}:"
        " docker-credential-lab failed: the vault is locked"
    )


def test_a_pull_leaves_no_thread(
    puller: Puller, slow_registry: SlowRegistry, pushed: Callable[[], str]
) -> None:
    before = set(threading.enumerate())  # may include threads of earlier tests
    pull_all(puller, item(pushed()), item(NO_IMAGE))
    pull, _ = puller.join([item(slow_registry.image)], detach=False, progress_timeout=DEADLINE)
    assert slow_registry.asked.wait(DEADLINE)
    workers = [each for each in threading.enumerate() if each.name == "hm-pull" and each not in before]
    assert len(workers) == 2, "one thread for the pull, one for its image"
    pull.leave()
    for worker in workers:
        worker.join(DEADLINE)
        assert not worker.is_alive()


def test_a_detached_pull_goes_on_alone_until_the_daemon_ends(
    puller: Puller, silent_registry: SlowRegistry
) -> None:
    pull, _ = puller.join([item(silent_registry.image)], detach=True, progress_timeout=DEADLINE)
    assert silent_registry.asked.wait(DEADLINE)
    pull.leave()
    assert puller.running()
    puller.close()
    assert result_of(pull)[silent_registry.image].state is PullState.CANCELLED


def test_only_the_caller_that_began_a_pull_is_notified_of_its_end(
    puller: Puller, silent_registry: SlowRegistry
) -> None:
    notified: list[tuple[str, PullState | None]] = []
    pull, _ = puller.join(
        [item(silent_registry.image)],
        detach=False,
        progress_timeout=DEADLINE,
        ended=lambda images: notified.extend(("first", image.state) for image in images),
    )
    puller.join(
        [item(NO_IMAGE)],
        detach=False,
        progress_timeout=DEADLINE,
        ended=lambda _: notified.append(("no", None)),
    )
    puller.close()
    pull.wait_until_over()
    assert notified == [("first", PullState.CANCELLED)]


def test_a_watcher_is_notified_and_reads_every_change(puller: Puller, pushed: Callable[[], str]) -> None:
    image = pushed()
    notified = threading.Event()
    pull, _ = puller.join([item(image)], detach=False, progress_timeout=DEADLINE)
    pull.subscribe(notified.set)
    version, states = -1, []
    while True:
        notified.clear()
        changes = pull.changes(version)
        version = changes.version
        states += [each.state for each in changes.images]
        if changes.over:
            break
        assert notified.wait(DEADLINE)
    pull.unsubscribe(notified.set)
    pull.leave()
    assert states[-1] is PullState.PULLED
    assert pull.changes(version).images == ()
    assert pull.counts()[PullState.PULLED] == 1
