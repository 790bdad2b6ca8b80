"""Pulling through a real engine, from a real registry and from one that never answers."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hostmanager_server.core.spec import PullPolicy
from hostmanager_server.drivers.compose.connection import Connection
from hostmanager_server.drivers.compose.progress import ImageProgress, PullItem, PullState
from hostmanager_server.drivers.compose.pull import Pull, Puller

from tests.docker_engine import DockerEngine, Registry, unique_name

DEADLINE = 60.0  # s
NOSUCH = "127.0.0.1:9/nobody/listens:1"


def dial(engine: DockerEngine) -> Connection:
    connection = Connection(engine.host)
    connection.negotiate(10.0)
    return connection


@pytest.fixture
def puller(engine: DockerEngine) -> Iterator[Puller]:
    puller = Puller(functools.partial(dial, engine))
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


def over(pull: Pull) -> dict[str, ImageProgress]:
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


class _Silent(http.server.BaseHTTPRequestHandler):
    """A registry that wants a password, and then never answers."""

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, SilentRegistry)
        credentials = self.headers.get("Authorization")
        if credentials is None:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="lab"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        server.credentials = credentials
        server.asked.set()
        server.done.wait(DEADLINE)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class's name
        """Quiet."""


class SilentRegistry(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Silent)
        self.asked = threading.Event()
        self.done = threading.Event()
        self.credentials = ""

    @property
    def image(self) -> str:
        return f"127.0.0.1:{self.server_port}/lab/agent:1"


@pytest.fixture
def silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SilentRegistry]:
    server = SilentRegistry()
    auths = {f"127.0.0.1:{server.server_port}": {"auth": base64.b64encode(b"ann:secret").decode()}}
    (tmp_path / "config.json").write_text(json.dumps({"auths": auths}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.done.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_no_progress_is_a_failure_in_the_end(puller: Puller, silent: SilentRegistry) -> None:
    pull, _ = puller.join([item(silent.image)], detach=False, progress_timeout=1.0)
    image = over(pull)[silent.image]
    pull.leave()
    assert (image.state, image.message) == (PullState.FAILED, "no progress for 1 s")


def test_credentials_come_from_the_users_docker_config(puller: Puller, silent: SilentRegistry) -> None:
    pull, _ = puller.join([item(silent.image)], detach=False, progress_timeout=DEADLINE)
    assert silent.asked.wait(DEADLINE)
    pull.leave()
    assert silent.credentials == "Basic " + base64.b64encode(b"ann:secret").decode()


def test_a_second_caller_joins_and_the_pull_stops_when_the_last_one_leaves(
    puller: Puller, silent: SilentRegistry
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


def test_a_detached_pull_goes_on_alone_until_the_daemon_ends(puller: Puller, silent: SilentRegistry) -> None:
    pull, _ = puller.join([item(silent.image)], detach=True, progress_timeout=DEADLINE)
    assert silent.asked.wait(DEADLINE)
    pull.leave()
    assert puller.running()
    puller.close()
    assert over(pull)[silent.image].state is PullState.CANCELLED


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
