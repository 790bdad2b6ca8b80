"""Errors too long for gRPC's trailers: shortened, with their status intact."""

from __future__ import annotations

import re
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client.aio import AsyncHostManagerClient
from hostmanager_client.cli.failure import exit_code
from hostmanager_client.errors import HostManagerError, NotFound, PreconditionFailed
from hostmanager_server.core.event_log import Severity
from hostmanager_server.core.manager_status import Problem
from hostmanager_server.core.spec import HostSpec
from hostmanager_server.rpc.errors import FieldViolation, RpcError, from_request_error, unknown_instances
from hostmanager_server.rpc.trailers import MOST_BYTES, MOST_LISTED, OMITTED, shorten, trailers
from hostmanager_server.supervisor import AdoptionError
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.in_memory import MemoryConfig
from tests.rpc.harness import ServerHarness, refused, server_harness

CODE = grpc.StatusCode
FOUR_KB = 4096

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=60)
LONG = st.builds(lambda text, times: text * times, ANY_TEXT, st.sampled_from([1, 1, 3, 200, 5000]))
VIOLATIONS = st.lists(st.builds(FieldViolation, LONG, LONG), max_size=60)
ERRORS = st.builds(
    RpcError,
    st.sampled_from([code for code in CODE if code is not CODE.OK]),
    st.just("UNKNOWN_INSTANCE"),
    LONG,
    VIOLATIONS.map(tuple),
    st.dictionaries(LONG, LONG, max_size=30),
    st.lists(LONG, max_size=60).map(tuple),
    st.sampled_from(["; ", "\n"]),
    LONG,
)


def read(error: RpcError) -> tuple[status_pb2.Status, error_details_pb2.ErrorInfo, list[FieldViolation]]:
    """Return the parts of an error that a client reads from its trailers."""
    sent = trailers(error)
    [(key, value)] = sent.metadata
    assert key == "grpc-status-details-bin"
    status = status_pb2.Status.FromString(value)
    assert status.message == sent.message
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        assert detail.Unpack(info) or detail.Unpack(bad)
    return status, info, [FieldViolation(v.field, v.description) for v in bad.field_violations]


@settings(max_examples=200, deadline=None)
@given(ERRORS)
def test_every_error_fits_and_keeps_its_status_and_its_first_violation(error: RpcError) -> None:
    status, info, violations = read(error)
    assert trailers(error).size <= MOST_BYTES < FOUR_KB
    assert (status.code, info.reason, info.domain) == (error.code.value[0], error.reason, "hostmanager")
    assert bool(violations) == bool(error.violations)
    assert len(violations) <= MOST_LISTED
    if error.violations:
        first = error.violations[0].description.encode(errors="backslashreplace").decode()
        assert violations[0].description[:2] == first[:2]


@given(ANY_TEXT, st.integers(12, 100))
def test_a_shortened_text_keeps_its_ends(text: str, longest: int) -> None:
    short = shorten(text, longest)
    whole = text.encode(errors="backslashreplace").decode()
    # The text may have dots next to those that mark the cut.
    cuts = [n for n in range(len(short)) if short.startswith("...", n)]
    assert short == whole or any(
        whole.startswith(short[:cut]) and whole.endswith(short[cut + 3 :]) for cut in cuts
    )


def test_an_error_that_fits_is_sent_in_full() -> None:
    given = [
        FieldViolation(f"requests[{n}]", f"no instance 'id{n}' on this host") for n in range(MOST_LISTED)
    ]
    _, info, violations = read(unknown_instances(given))
    assert violations == given
    assert OMITTED not in info.metadata


def test_what_is_omitted_is_counted() -> None:
    given = [
        FieldViolation(f"requests[{n}]", f"no instance {str(n) * 80!r} on this host") for n in range(500)
    ]
    status, info, violations = read(unknown_instances(given))
    assert 3 <= len(violations) <= MOST_LISTED
    omitted = 500 - len(violations)
    assert info.metadata[OMITTED] == str(omitted)
    assert status.message.endswith(f"; and {omitted} more")


def test_a_failed_recovery_of_runs_is_unavailable() -> None:
    error = from_request_error(AdoptionError(OSError(24, "Too many open files")), "")
    assert (error.code, error.reason) == (CODE.UNAVAILABLE, "NOT_TAKEN_BACK")


def broken(count: int, *, folder: str = "/srv/site") -> MemoryConfig:
    """Return a config with a warning before `count` errors."""
    file = f"{folder}/site.yaml"
    warning = Problem(Severity.WARNING, "means nothing", file, 1, 1)
    errors = (Problem(Severity.ERROR, f"unknown manage 'mäybe{n}'", file, n + 2, 5) for n in range(count))
    return MemoryConfig(None, (warning, *errors), file)


async def fails(h: ServerHarness, ids: list[str], *, reload: bool) -> HostManagerError:
    async with AsyncHostManagerClient(h.address) as client:
        with pytest.raises(HostManagerError) as caught:
            await client.update([(i, pb.TARGET_STATE_UP) for i in ids], reload_config=reload)
    return caught.value


@pytest.mark.parametrize("count", [1, 26, 199])
@pytest.mark.parametrize("folder", ["/srv/site", "/" + "ü" * 1500])
async def test_a_config_full_of_errors_is_sent_with_the_first_places(
    tmp_path: Path, count: int, folder: str
) -> None:
    async with server_harness(tmp_path) as h:
        h.config = broken(count, folder=folder)
        error = await fails(h, [], reload=True)
        assert isinstance(error, PreconditionFailed)
        assert (error.reason, exit_code(error)) == ("CONFIG_UNUSABLE", 5)
        lines = str(error).splitlines()
        assert lines[1].endswith("site.yaml:2:5: error: unknown manage 'mäybe0'")
        if count > MOST_LISTED:
            omitted = count + 1 - len(lines[1:-1])
            assert lines[-1].startswith(f"and {omitted} more: `hostmanager config check")
            assert lines[-1].removesuffix("` lists all").removesuffix("'").endswith("/site.yaml")


@pytest.mark.parametrize("name", ["id{}", "x" * 70 + "{}", "ü" * 70 + "{}", "\U0001f52d" * 70 + "{}"])
@pytest.mark.parametrize("reload", [False, True])
async def test_any_number_of_unknown_ids_is_not_found(tmp_path: Path, name: str, *, reload: bool) -> None:
    async with server_harness(tmp_path) as h:
        error = await fails(h, [name.format(n) for n in range(60)], reload=reload)
        assert isinstance(error, NotFound)
        assert (error.reason, exit_code(error)) == ("UNKNOWN_INSTANCE", 4)
        assert error.violations[0].field == "requests[0]"
        omitted = 60 - len(error.violations)
        assert f"and {omitted} more" in str(error)


async def test_long_ids_in_other_calls_are_refused_in_full(tmp_path: Path) -> None:
    long = "y" * 200_000
    async with server_harness(tmp_path) as h:
        stub = h.stub()
        calls = (
            stub.GetInstance(pb.GetInstanceRequest(instance_id=long)),
            stub.ListInstances(pb.ListInstancesRequest(instance_ids=[long, "x" * 5000])),
            stub.Restart(pb.RestartRequest(instance_ids=[long])),
            stub.Die(pb.DieRequest(expected_epoch=long)),
            stub.TailLogs(pb.TailLogsRequest(instance_id=long)).read(),
            stub.DockerPull(pb.DockerPullRequest(instance_ids=[long])).read(),
            stub.RemoveOrphans(pb.RemoveOrphansRequest(container_ids=[long])).read(),
        )
        for call in calls:
            error = await refused(call)
            assert error.code is CODE.INVALID_ARGUMENT
            assert re.search("max-(id|token)-characters=", error.message)


async def test_a_long_problem_of_the_engine_is_sent_with_its_beginning(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        h.config = MemoryConfig(HostSpec("host", ()))
        h.engine.failure = "the engine says " + "no " * 20_000
        error = await refused(h.stub().RemoveOrphans(pb.RemoveOrphansRequest()).read())
        assert (error.code, error.reason) == (CODE.UNAVAILABLE, "ENGINE_UNREACHABLE")
        assert error.message.startswith("the engine says no no")
