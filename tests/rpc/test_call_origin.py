"""Who asks for a change, and why: what the daemon believes, shows, and refuses."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_server.core.events import Instant
from hostmanager_server.core.spec import HostSpec
from hostmanager_server.linux.peer_credentials import PeerCredentials, connected_peers
from hostmanager_server.rpc import call_origin
from hostmanager_server.rpc.caller import Caller
from hostmanager_server.rpc.errors import RpcError

from tests.in_memory import MemoryConfig
from tests.rpc.harness import ServerHarness, down, refused, server_harness, spec, until, up

CODE = grpc.StatusCode
CLAIMS = (
    ("hostmanager-user", "ada"),
    ("hostmanager-program", "hostmanager down"),
    ("hostmanager-pid", "4711"),
)
Kind = pb.ChangeOrigin


async def events_of(h: ServerHarness, *reasons: str) -> list[pb.Event]:
    answer = await h.stub().ListEvents(pb.ListEventsRequest(reasons=reasons, page_size=1000))
    return list(answer.events)


async def instance(h: ServerHarness, instance_id: str) -> pb.ManagedInstance:
    answer = await h.stub().GetInstance(pb.GetInstanceRequest(instance_id=instance_id))
    return answer.instance


async def test_a_change_has_the_reason_and_the_client_beside_it(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        request = pb.UpdateRequest(requests=down("a"), reason="valve swap")
        await h.stub().Update(request, metadata=CLAIMS)
        await until(lambda: h.host.run_of("a") is None)
        (update,) = await events_of(h, "Update")
        origin = update.origin
        assert (origin.kind, origin.reason) == (Kind.KIND_CALL, "valve swap")
        assert (origin.requester.user, origin.requester.program) == ("ada", "hostmanager down")
        assert origin.requester.peer == "unix"
        shown = await instance(h, "a")
        assert shown.target_origin == origin
        assert not shown.HasField("restart_origin")
        steps = await events_of(h, "Stopping", "Down")
        assert [(e.instance_id, e.origin.reason) for e in steps] == [("a", "valve swap")] * 2
        assert not any(e.HasField("origin") for e in await events_of(h, "Exited"))


async def test_a_restart_and_a_target_keep_their_own_origins(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        await h.stub().Update(pb.UpdateRequest(requests=up("a"), reason="first"))
        await h.stub().Restart(pb.RestartRequest(instance_ids=["a"], reason="second"))
        shown = await instance(h, "a")
        assert (shown.target_origin.reason, shown.restart_origin.reason) == ("first", "second")
        (restart,) = await events_of(h, "Restart")
        assert restart.origin == shown.restart_origin


async def test_targets_of_the_config_say_so_and_who_reloaded(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        origin = (await instance(h, "a")).target_origin
        assert (origin.kind, origin.detail) == (Kind.KIND_CONFIG, "site.yaml")
        assert not origin.HasField("requester")
        h.config = MemoryConfig(HostSpec("host", (spec("a"), spec("b", "Other"), spec("d"))))
        await h.stub().Update(pb.UpdateRequest(reload_config=True, reason="new probe"), metadata=CLAIMS)
        for instance_id in ("b", "d"):
            origin = (await instance(h, instance_id)).target_origin
            assert (origin.kind, origin.reason) == (Kind.KIND_CONFIG, "new probe")
            assert origin.requester.user == "ada"
        assert (await instance(h, "a")).target_origin.reason == "", "the reload did not decide this target"
        changes = await events_of(h, "Added", "Reset", "Retired")
        assert {(e.instance_id, e.origin.reason) for e in changes if e.revision > 3 and e.origin.reason} == {
            ("d", "new probe"),
            ("b", "new probe"),
            ("c", "new probe"),
        }


async def test_the_manager_and_the_end_of_the_daemon_have_an_origin(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        await h.stub().StopManager(pb.StopManagerRequest(reason="power work"))
        await h.stub().StartManager(pb.StartManagerRequest(reason="power is back"))
        await h.stub().Upgrade(pb.UpgradeRequest(reason="security"))
        await h.stub().Upgrade(pb.UpgradeRequest(validate_only=True))
        await h.stub().Die(pb.DieRequest(reason="end of the run"))
        found = await events_of(h, "Stopping", "Started", "Upgrading", "Die")
        reasons = [(e.reason, e.origin.reason) for e in found if not e.instance_id]
        assert reasons == [
            ("Started", ""),
            ("Stopping", "power work"),
            ("Started", "power is back"),
            ("Upgrading", "security"),
            ("Die", "end of the run"),
            ("Stopping", "end of the run"),
        ]


@pytest.mark.parametrize(
    ("reason", "metadata", "field"),
    [
        ("x" * 201, (), "reason"),
        ("two\nlines", (), "reason"),
        ("\x1b[31mred", (), "reason"),
        ("\u202eoverride", (), "reason"),
        ("", (("hostmanager-user", "%1b[2J"),), "hostmanager-user"),
        ("", (("hostmanager-program", "x" * 65),), "hostmanager-program"),
        ("", (("hostmanager-pid", "many"),), "hostmanager-pid"),
        ("", (("hostmanager-pid", "4194305"),), "hostmanager-pid"),
    ],
)
async def test_a_text_that_cannot_be_shown_is_refused_and_changes_nothing(
    tmp_path: Path, reason: str, metadata: Sequence[tuple[str, str]], field: str
) -> None:
    async with server_harness(tmp_path) as h:
        call = h.stub().Update(pb.UpdateRequest(requests=down("a"), reason=reason), metadata=metadata)
        error = await refused(call)
        assert (error.code, error.reason) == (CODE.INVALID_ARGUMENT, "INVALID_REQUEST")
        assert error.violations.keys() == {field}
        assert error.message.startswith("cannot take ")
        assert h.settled()


@pytest.mark.parametrize("reason", ["x" * 200, "Ventil getauscht, 弁を交換", "a 'quoted' \"word\""])
async def test_words_of_people_are_kept_as_they_are(tmp_path: Path, reason: str) -> None:
    async with server_harness(tmp_path) as h:
        metadata = (("hostmanager-user", "J%C3%B6rg"),)
        await h.stub().Update(pb.UpdateRequest(requests=down("a"), reason=reason), metadata=metadata)
        origin = (await instance(h, "a")).target_origin
        assert (origin.reason, origin.requester.user) == (reason, "Jörg")


# --- who it is


def requester(
    monkeypatch: pytest.MonkeyPatch, peers: set[PeerCredentials] | None, pid: str = "", peer: str = "unix:"
) -> Any:
    monkeypatch.setattr(call_origin, "connected_peers", lambda: peers and frozenset(peers))
    claims = (("hostmanager-pid", pid),) if pid else ()
    found = call_origin.requester_of(Caller(peer.partition(":")[0], None, peer, claims))  # type: ignore[arg-type]  # no handler
    return found.pid, found.uid, found.verified


ONE, TWO, FOREIGN = PeerCredentials(10, 1000), PeerCredentials(11, 1000), PeerCredentials(12, 0)


def test_the_only_connected_process_is_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    assert requester(monkeypatch, {ONE}) == (10, 1000, True)
    assert requester(monkeypatch, {ONE}, "77") == (10, 1000, True), "a pid of another pid namespace"


def test_one_of_several_processes_is_believed_if_all_have_one_user(monkeypatch: pytest.MonkeyPatch) -> None:
    assert requester(monkeypatch, {ONE, TWO}, "11") == (11, 1000, True)
    assert requester(monkeypatch, {ONE, TWO}, "77") == (77, 1000, False)
    assert requester(monkeypatch, {ONE, TWO}) == (0, 1000, False)


def test_a_claim_among_several_users_stays_a_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    assert requester(monkeypatch, {ONE, FOREIGN}, "12") == (12, None, False)


def test_without_the_kernel_everything_is_a_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    assert requester(monkeypatch, None, "12") == (12, None, False)
    assert requester(monkeypatch, {ONE}, "10", "ipv4:127.0.0.1:4711") == (10, None, False)


def test_the_address_of_a_tcp_client_is_readable() -> None:
    caller = Caller("ipv6:%5B::1%5D", None, "ipv6:%5B::1%5D:4711")  # type: ignore[arg-type]  # no handler
    assert call_origin.requester_of(caller).peer == "[::1]:4711"


def test_a_malformed_claim_is_an_error_of_the_request() -> None:
    caller = Caller("unix", None, "unix:", (("hostmanager-user", "a%00b"),))  # type: ignore[arg-type]  # no handler
    with pytest.raises(RpcError, match="control and invisible characters"):
        call_origin.origin_of(caller, "", Instant(1.0, 1.0))


def test_the_kernel_names_the_processes_at_the_other_ends(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    connect = "import socket,sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); sys.stdin.read()"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        before = connected_peers()
        assert before is not None
        with subprocess.Popen([sys.executable, "-c", connect, path], stdin=subprocess.PIPE) as client:
            accepted, _ = listener.accept()
            own = socket.socketpair()
            with accepted, own[0], own[1]:
                assert connected_peers() == before | {PeerCredentials(client.pid, os.getuid())}
            client.communicate()
        assert connected_peers() == before
