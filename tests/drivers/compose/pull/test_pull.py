"""Pulling through a real engine, from a real registry and from one that never answers."""

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

from tests.docker_engine import DockerEngine, Registry, unique_name
from tests.drivers.compose.slow_registry import SlowRegistry

DEADLINE = 60.0  # s
NOSUCH = "127.0.0.1:9/nobody/listens:1"


def connect_to(engine: DockerEngine) -> Connection:
    connection = Connection(engine.host)
    connection.negotiate(10.0)
    return connection


@pytest.fixture
def puller(engine: DockerEngine) -> Iterator[Puller]:
    puller = Puller(functools.partial(connect_to, engine))
    yield puller
    puller.close()


@pytest.fixture
def pushed(engine: DockerEngine, registry: Registry) -> Iterator[Callable[[], str]]:
    """Puts a new image into the registry that the engine does not have."""

    def push(tag: str = "") -> str:
        tag = tag or f"{unique_name()}:1"
        engine.import_image(tag, files={"/id": unique_name().encode()})
        reference = registry.push(engine, tag)
        engine.docker("rmi", tag)
        return reference

    yield push
    registry.remove_pulled(engine)


def over(pull: ImagePull) -> dict[str, ImageProgress]:
    pull._thread.join(DEADLINE)
    assert pull.over
    return {image.image: image for image in pull.changes(-1).images}


def item(image: str, policy: PullPolicy = PullPolicy.ALWAYS, *, built: bool = False) -> PullItem:
    return PullItem(image, ("a",), policy, built)


def pulled(puller: Puller, *items: PullItem) -> dict[str, ImageProgress]:
    pull, _ = puller.join(items, detach=False, progress_timeout=DEADLINE)
    try:
        return over(pull)
    finally:
        pull.leave()


def test_a_new_image_is_pulled_with_its_layers_and_then_is_up_to_date(
    engine: DockerEngine, puller: Puller, pushed: Callable[[], str]
) -> None:
    image = pushed()
    first = pulled(puller, item(image))[image]
    assert first.state is PullState.PULLED
    assert [(layer.status, layer.current == layer.total) for layer in first.layers] == [
        ("Pull complete", True)
    ]
    assert engine.docker("inspect", "--format", "{{.Id}}", image) == first.image_id
    again = pulled(puller, item(image))[image]
    assert (again.state, again.image_id) == (PullState.UP_TO_DATE, first.image_id)


def test_a_failed_image_does_not_stop_the_others(puller: Puller, pushed: Callable[[], str]) -> None:
    image = pushed()
    found = pulled(puller, item(NOSUCH), item(image))
    assert (found[NOSUCH].state, found[image].state) == (PullState.FAILED, PullState.PULLED)
    assert "refused" in found[NOSUCH].message


def test_the_pull_policy_is_heeded(puller: Puller, pushed: Callable[[], str]) -> None:
    here, missing = pushed(), pushed()
    pulled(puller, item(here))
    found = pulled(
        puller,
        item(here, PullPolicy.MISSING),
        item(missing, PullPolicy.MISSING),
        item(f"{NOSUCH}a", PullPolicy.NEVER),
        item(f"{NOSUCH}b", PullPolicy.BUILD),
        item(f"{NOSUCH}c", built=True),
    )
    assert {name.removeprefix(NOSUCH): image.state for name, image in found.items()} == {
        here: PullState.SKIPPED,
        missing: PullState.PULLED,
        "a": PullState.SKIPPED,
        "b": PullState.SKIPPED,
        "c": PullState.SKIPPED,
    }
    assert "to be built here" in found[f"{NOSUCH}c"].message


@pytest.fixture
def silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowRegistry]:
    """Takes the password, and never answers."""
    server = SlowRegistry(wants_password=True)
    auths = {server.address: {"auth": base64.b64encode(b"ann:secret").decode()}}
    (tmp_path / "config.json").write_text(json.dumps({"auths": auths}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    yield server
    server.close()


@pytest.fixture
def slow() -> Iterator[SlowRegistry]:
    """Sends the beginning of a layer, and no more."""
    server = SlowRegistry(wants_password=False)
    yield server
    server.close()


def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A credential helper for all registries."""
    program = tmp_path / "docker-credential-lab"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    (tmp_path / "config.json").write_text(json.dumps({"credsStore": "lab"}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_no_progress_is_a_failure_in_the_end(puller: Puller, silent: SlowRegistry) -> None:
    pull, _ = puller.join([item(silent.image)], detach=False, progress_timeout=1.0)
    image = over(pull)[silent.image]
    pull.leave()
    assert (image.state, image.message) == (PullState.FAILED, "no progress for 1 s")


def test_credentials_come_from_the_users_docker_config(puller: Puller, silent: SlowRegistry) -> None:
    pull, _ = puller.join([item(silent.image)], detach=False, progress_timeout=DEADLINE)
    assert silent.asked.wait(DEADLINE)
    pull.leave()
    assert silent.credentials == "Basic " + base64.b64encode(b"ann:secret").decode()


def test_a_second_caller_joins_and_the_pull_stops_when_the_last_one_leaves(
    puller: Puller, silent: SlowRegistry
) -> None:
    pull, joined = puller.join([item(silent.image)], detach=False, progress_timeout=DEADLINE)
    other, joined_too = puller.join([item(NOSUCH)], detach=False, progress_timeout=1.0)
    assert (joined, joined_too, other is pull) == (False, True, True)
    assert silent.asked.wait(DEADLINE)
    pull.leave()
    assert not pull.over
    other.leave()
    assert over(pull)[silent.image].state is PullState.CANCELLED
    assert not puller.running()


def test_a_pull_that_is_being_stopped_is_nobodys_to_join(
    puller: Puller, silent: SlowRegistry, pushed: Callable[[], str]
) -> None:
    image = pushed()
    stopped, _ = puller.join([item(silent.image)], detach=False, progress_timeout=DEADLINE)
    assert silent.asked.wait(DEADLINE)
    stopped.leave()
    pull, joined = puller.join([item(image)], detach=False, progress_timeout=DEADLINE)
    assert not joined
    assert over(pull)[image].state is PullState.PULLED
    assert stopped.over, "there is one pull at a time"


def test_a_layer_that_stops_coming_is_a_failure_that_keeps_what_came(
    puller: Puller, slow: SlowRegistry
) -> None:
    pull, _ = puller.join([item(slow.image)], detach=False, progress_timeout=5.0)
    image = over(pull)[slow.image]
    pull.leave()
    assert (image.state, image.message) == (PullState.FAILED, "no progress for 5 s")
    assert [(layer.status, layer.total) for layer in image.layers] == [("Downloading", 8 << 20)]
    assert 0 < image.layers[0].current <= 1 << 20


def test_an_engine_that_hangs_up_is_the_reason(engine: DockerEngine, slow: SlowRegistry) -> None:
    connections: list[Connection] = []

    def connect() -> Connection:
        connections.append(connect_to(engine))
        return connections[-1]

    puller = Puller(connect)
    pull, _ = puller.join([item(slow.image)], detach=False, progress_timeout=DEADLINE)
    assert slow.asked.wait(DEADLINE)
    connections[0].abort()  # both ends of a connection look alike when it is cut
    image = over(pull)[slow.image]
    puller.close()
    assert image.state is PullState.FAILED
    assert "closed the connection" in image.message


def test_a_connection_that_never_comes_about_is_given_up() -> None:
    """As a credential helper, or a name server, may keep a thread for ever."""
    done = threading.Event()

    def connect() -> Connection:
        done.wait(DEADLINE)
        raise AssertionError("not needed any more")

    puller = Puller(connect)
    pull, _ = puller.join([item(NOSUCH), item(f"{NOSUCH}b", built=True)], detach=False, progress_timeout=1.0)
    found = over(pull)
    assert found[NOSUCH].message == "no progress for 1 s"
    assert found[f"{NOSUCH}b"].state is PullState.SKIPPED
    again, joined = puller.join([item(NOSUCH)], detach=False, progress_timeout=DEADLINE)
    assert not joined
    puller.close()  # does not wait for it
    assert over(again)[NOSUCH].state is PullState.CANCELLED
    done.set()


def test_credentials_come_from_a_credential_helper(
    puller: Puller, silent: SlowRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(tmp_path, monkeypatch, """read server; echo '{"Username": "'$server'", "Secret": "bob"}'""")
    pull, _ = puller.join([item(silent.image)], detach=False, progress_timeout=DEADLINE)
    assert silent.asked.wait(DEADLINE)
    pull.leave()
    assert silent.credentials == "Basic " + base64.b64encode(f"{silent.address}:bob".encode()).decode()


def test_a_credential_helper_that_fails_is_the_reason(
    puller: Puller, silent: SlowRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(tmp_path, monkeypatch, "echo the vault is locked; exit 1")
    assert pulled(puller, item(silent.image))[silent.image].message == (
        f"cannot get the credentials for {silent.address}: docker-credential-lab failed: the vault is locked"
    )


def test_no_thread_is_left_of_a_pull(puller: Puller, slow: SlowRegistry, pushed: Callable[[], str]) -> None:
    before = set(threading.enumerate())  # what a test before has left behind may be among them
    pulled(puller, item(pushed()), item(NOSUCH))
    pull, _ = puller.join([item(slow.image)], detach=False, progress_timeout=DEADLINE)
    assert slow.asked.wait(DEADLINE)
    workers = [each for each in threading.enumerate() if each.name == "hm-pull" and each not in before]
    assert len(workers) == 2, "one for the pull, one for its image"
    pull.leave()
    for worker in workers:
        worker.join(DEADLINE)
        assert not worker.is_alive()


def test_a_detached_pull_goes_on_alone_until_the_daemon_ends(puller: Puller, silent: SlowRegistry) -> None:
    pull, _ = puller.join([item(silent.image)], detach=True, progress_timeout=DEADLINE)
    assert silent.asked.wait(DEADLINE)
    pull.leave()
    assert puller.running()
    puller.close()
    assert over(pull)[silent.image].state is PullState.CANCELLED


def test_only_who_began_a_pull_is_told_of_its_end(puller: Puller, silent: SlowRegistry) -> None:
    told: list[tuple[str, PullState | None]] = []
    pull, _ = puller.join(
        [item(silent.image)],
        detach=False,
        progress_timeout=DEADLINE,
        ended=lambda images: told.extend(("first", image.state) for image in images),
    )
    puller.join(
        [item(NOSUCH)], detach=False, progress_timeout=DEADLINE, ended=lambda _: told.append(("no", None))
    )
    puller.close()
    pull.wait_until_over()
    assert told == [("first", PullState.CANCELLED)]


def test_who_watches_is_told_of_each_change_and_asks_what_it_was(
    puller: Puller, pushed: Callable[[], str]
) -> None:
    image = pushed()
    told = threading.Event()
    pull, _ = puller.join([item(image)], detach=False, progress_timeout=DEADLINE)
    pull.subscribe(told.set)
    version, states = -1, []
    while True:
        told.clear()
        changes = pull.changes(version)
        version = changes.version
        states += [each.state for each in changes.images]
        if changes.over:
            break
        assert told.wait(DEADLINE)
    pull.unsubscribe(told.set)
    pull.leave()
    assert states[-1] is PullState.PULLED
    assert pull.changes(version).images == ()
    assert pull.counts()[PullState.PULLED] == 1
