"""Each way in which a connection fails is told in plain words, and repeated only where that is safe."""

from __future__ import annotations

import asyncio
import socket as sockets
from pathlib import Path
from typing import Any

import grpc
import pytest
from hostmanager_client import (
    UP,
    AsyncHostManagerClient,
    DeadlineExceeded,
    HostManagerClient,
    HostManagerError,
    ServerBug,
    Transport,
    Unreachable,
)

from tests.client import broken_peers as peers
from tests.client.conftest import Blocking, MakeClient
from tests.client.fake_daemon import FakeDaemon

HASTY = Transport(connect=0.2, keepalive=0.2, ping_timeout=0.2)
TRAILERS = peers.headers(grpc_status="0")
# gRPC before 1.84 looks at the size of a message only when all of it is there; a daemon sends all of it.
JUDGES_BY_THE_PREFIX = tuple(map(int, grpc.__version__.split(".")[:2])) >= (1, 84)
# gRPC 1.75.1 on a busy machine confuses a peer that answers nothing in time with a closed connection.
TOLD_BY_CHANCE = (
    () if JUDGES_BY_THE_PREFIX else ("no answer at all", "closes at once", "resets at once", "freezes")
)
HUGE: tuple[type[HostManagerError], str] = (
    (ServerBug, "larger than the limit")
    if JUDGES_BY_THE_PREFIX
    else (DeadlineExceeded, "did not answer in time")
)

# Peer; error, part of its text, and whether the request may have reached the daemon.
FAILURES = {
    "no answer at all": (peers.silent, Unreachable, "does not answer", False),
    "closes at once": (peers.closes, Unreachable, "closed the connection at once", False),
    "resets at once": (peers.resets, Unreachable, "closed the connection at once", False),
    "another protocol": (peers.says(b"SSH-2.0-x\r\n"), Unreachable, "another program answers", False),
    "http 1": (peers.says(b"HTTP/1.1 400 Bad\r\n\r\n"), Unreachable, "another program answers", False),
    "freezes": (peers.after_the_request(peers.silent), Unreachable, "answered no ping", True),
    "closes": (peers.after_the_request(peers.closes), Unreachable, "closed the connection", True),
    "resets": (peers.after_the_request(peers.resets), Unreachable, "closed the connection", True),
    "goes away": (peers.goes_away(0), Unreachable, "closed the connection", True),
    "pinged too often": (peers.goes_away(11, b"too_many_pings"), Unreachable, "closed the connection", True),
    "internal": (peers.resets_the_stream(2), Unreachable, "closed the connection", True),
    "refused stream": (peers.resets_the_stream(7), Unreachable, "accepts no more calls", False),
    "cancelled stream": (peers.resets_the_stream(8), Unreachable, "it is overloaded", True),
    "calm down": (peers.resets_the_stream(11), Unreachable, "closed the connection", True),
    "http 404": (peers.answers_http(404), Unreachable, "another program answers", False),
    "http 401": (peers.answers_http(401), Unreachable, "another program answers", False),
    "http 200": (peers.answers_http(200), Unreachable, "another program answers", False),
    "http 503": (peers.answers_http(503), Unreachable, "a proxy answers", True),
    "no protobuf": (peers.answers_grpc(b"\0\0\0\0\x01\xff", TRAILERS), ServerBug, "unreadable", None),
    "huge": (peers.answers_grpc(b"\0\x7f\0\0\0\xff"), *HUGE, None),
}  # fmt: skip


def make(kind: str, address: str, **kwargs: Any) -> Any:
    return (HostManagerClient if kind == "sync" else Blocking)(address, **kwargs)


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
@pytest.mark.parametrize("failure", FAILURES)
def test_each_failure_of_a_connection_says_what_to_do(failure: str, kind: str) -> None:
    behave, error, words, sent = FAILURES[failure]
    by_chance = failure in TOLD_BY_CHANCE
    if by_chance:
        words = f"{words}|closed the connection|does not answer"
    with peers.peer(behave) as address:
        client = make(kind, address, timeout=0.8, transport=HASTY)
        try:
            with pytest.raises(HostManagerError, match=words) as of_a_change:
                client.update({"data1": UP})
            with pytest.raises(HostManagerError, match=words) as of_a_read:
                client.get_status()
        finally:
            client.close()
    for caught in (of_a_change, of_a_read):
        assert type(caught.value) is error
        assert str(caught.value).startswith("cannot ")
        for raw in ("UNKNOWN", "INTERNAL", "SETTINGS", "RST_STREAM", "recvmsg", "Stream removed"):
            assert raw not in str(caught.value)
    told = getattr(of_a_change.value, "sent", None)
    assert by_chance or told is sent
    assert ("may have carried it out" in str(of_a_change.value)) == (told is not False)
    assert "carried it out" not in str(of_a_read.value)


@pytest.mark.parametrize(
    "text",
    ["Socket closed", "Transport closed", "Endpoint closing", "recvmsg:Connection reset by peer (104)",
     "Broken pipe", "GOAWAY"],
)  # fmt: skip
def test_the_texts_of_other_releases_of_grpc_are_known(text: str, daemon: FakeDaemon) -> None:
    from hostmanager_client.address import Address
    from hostmanager_client.rpc_errors import make_error

    address = Address(path=str(daemon.socket))
    error = make_error("UNAVAILABLE", text, (), "look", address)
    assert "it closed the connection" in str(error)
    for code in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL):
        error = make_error(code.name, "Stream removed", (), "look", address)
        assert isinstance(error, Unreachable)


class Refusals:
    """Makes a fake daemon answer the next `count` calls and streams with CANCELLED."""

    def __init__(self, daemon: FakeDaemon, count: int) -> None:
        self.remaining = count
        enter = daemon._enter

        def refuse(request: Any, context: Any) -> None:
            enter(request, context)
            if self.remaining:
                self.remaining -= 1
                context.abort(grpc.StatusCode.CANCELLED, "")

        daemon._enter = refuse  # type: ignore[method-assign]


def test_a_cancelled_read_is_repeated(daemon: FakeDaemon, client: Any) -> None:
    daemon.add("data1")
    Refusals(daemon, 3)
    assert [i.instance_id for i in client.list_instances().instances] == ["data1"]
    assert len(daemon.requests) == 4


def test_a_cancelled_change_is_not_repeated(daemon: FakeDaemon, client: Any) -> None:
    daemon.add("data1")
    Refusals(daemon, 1)
    with pytest.raises(Unreachable, match="may have carried it out") as caught:
        client.update({"data1": UP})
    assert caught.value.patience > 0
    assert len(daemon.requests) == 1


def test_a_cancelled_check_of_a_change_is_repeated(daemon: FakeDaemon, client: Any) -> None:
    daemon.add("data1")
    Refusals(daemon, 2)
    client.update({"data1": UP}, validate_only=True)
    assert len(daemon.requests) == 3


def test_a_cancelled_stream_is_reopened(daemon: FakeDaemon, client: Any) -> None:
    daemon.add("data1")
    daemon.write("data1", "line")
    changes: list[Any] = []
    refusals = Refusals(daemon, 2)
    assert next(client.watch(on_connection=changes.append)).snapshot == "initial"
    assert changes == [], "a stream that never opened is not lost"
    refusals.remaining = 2
    assert [line.text for line in client.tail_logs("data1")] == ["line"]
    refusals.remaining = 2
    events = client.watch_events(resume_token="epoch-0:1")
    assert next(events).message == "an earlier epoch of the daemon"


def test_a_removal_of_orphans_starts_once(daemon: FakeDaemon, make_client: MakeClient) -> None:
    client = make_client(daemon)
    stream = client.remove_orphans()
    if hasattr(client, "client"):
        stream = client.iterate(stream)
    Refusals(daemon, 1)
    with pytest.raises(Unreachable, match="may have carried it out"):
        next(iter(stream))
    assert len(daemon.requests) == 1


def test_retries_of_cancelled_calls_end_at_the_timeout(daemon: FakeDaemon, make_client: MakeClient) -> None:
    client = make_client(daemon, timeout=0.5)
    Refusals(daemon, 10**6)
    with pytest.raises(Unreachable, match="it is overloaded"):
        client.get_status()
    with pytest.raises(Unreachable, match="it is overloaded"):
        next(client.watch())


def test_a_cancelled_task_raises_cancelled_error(daemon: FakeDaemon) -> None:
    async def watch() -> None:
        async with AsyncHostManagerClient(str(daemon.socket)) as client:
            daemon.hold = True
            task = asyncio.ensure_future(anext(client.watch()))
            await asyncio.to_thread(daemon.wait_until, lambda: daemon.streams == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(watch())


def test_an_absent_daemon_is_called_once(socket: Path, make_client: MakeClient) -> None:
    client = make_client(FakeDaemon(socket), timeout=3600.0)
    with pytest.raises(Unreachable, match="no such socket") as caught:
        client.get_status()  # retries would take an hour
    assert caught.value.patience == 0
    with sockets.socket(sockets.AF_UNIX) as stale:
        stale.bind(str(socket))
    with pytest.raises(Unreachable, match="no process listens on the socket"):
        client.get_status()
