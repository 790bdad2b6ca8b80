"""Tests of containers built from the engine's documents."""

from __future__ import annotations

from typing import Any

import pytest
from hostmanager_server.drivers.compose.engine.container import Container, from_inspect, from_list

LABELS = {
    "com.docker.compose.project": "site",
    "com.docker.compose.service": "ocs-thermo",
    "com.docker.compose.container-number": "2",
    "com.docker.compose.oneoff": "False",
    "com.docker.compose.config-hash": "e46d",
    "com.docker.compose.project.config_files": "/srv/site/a.yaml,/srv/site/b.yaml",
    "com.docker.compose.project.working_dir": "/srv/site",
}


def document(state: dict[str, Any], **labels: str) -> dict[str, Any]:
    return {
        "Id": "4cbe",
        "Name": "/site-ocs-thermo-2",
        "Image": "sha256:9734",
        "State": state,
        "Config": {"Labels": LABELS | labels, "Tty": True},
    }


def container(state: dict[str, Any], **labels: str) -> Container:
    found = from_inspect(document(state, **labels))
    assert found is not None
    return found


RUNNING = {
    "Status": "running",
    "Running": True,
    "Restarting": False,
    "Pid": 12022,
    "ExitCode": 0,
    "StartedAt": "1970-01-01T00:01:40.25Z",
    "FinishedAt": "0001-01-01T00:00:00Z",
    "Health": {"Status": "healthy", "FailingStreak": 0},
}


def test_a_running_container_has_all_facts() -> None:
    assert container(RUNNING) == Container(
        id="4cbe",
        name="site-ocs-thermo-2",
        project="site",
        service="ocs-thermo",
        number=2,
        config_files=("/srv/site/a.yaml", "/srv/site/b.yaml"),
        config_hash="e46d",
        image="sha256:9734",
        running=True,
        status="running",
        exit_code=0,
        started=100.25,
        finished=None,
        pid=12022,
        health="healthy",
        tty=True,
    )


def test_a_container_that_ended_has_no_pid_and_no_health() -> None:
    ended = container(RUNNING | {"Status": "exited", "Running": False, "ExitCode": 3})
    assert (ended.running, ended.exit_code, ended.pid, ended.health) == (False, 3, 0, "")


def test_a_container_that_waits_for_its_restart_does_not_run() -> None:
    # The engine's document says Running.
    waiting = container(RUNNING | {"Status": "restarting", "Restarting": True, "Pid": 0, "ExitCode": 1})
    assert (waiting.running, waiting.status, waiting.exit_code) == (False, "restarting", 1)


LEFTOVERS = [
    "task 4cbe: already exists",
    "failed to create task for container: failed to start shim: mkdir /run/containerd/moby/4cbe: file exists",
]


@pytest.mark.parametrize("error", LEFTOVERS)
def test_a_container_blocked_by_remains_of_its_start_is_unstartable(error: str) -> None:
    assert container({"Status": "created", "ExitCode": 128, "Error": error}).unstartable
    assert not container(RUNNING | {"Error": error}).unstartable


@pytest.mark.parametrize(
    "error",
    [
        "",
        "failed programming connectivity on endpoint (4cbe): Bind for 0.0.0.0:80: port is already allocated",
        "error mounting /data to rootfs: mkdir /data: file exists",
    ],
)
def test_a_container_that_may_start_next_time_is_not_unstartable(error: str) -> None:
    assert not container({"Status": "exited", "ExitCode": 128, "Error": error}).unstartable


def test_a_paused_container_runs() -> None:
    paused = container(RUNNING | {"Status": "paused", "Paused": True})
    assert (paused.running, paused.status, paused.paused) == (True, "paused", True)


@pytest.mark.parametrize(
    ("state", "out_of_memory"),
    [
        ({"Status": "exited", "OOMKilled": True, "ExitCode": 137}, True),
        ({"Status": "exited", "OOMKilled": True, "ExitCode": 3}, False),  # of an earlier run
        ({"Status": "exited", "OOMKilled": False, "ExitCode": 137}, False),
        (RUNNING | {"OOMKilled": True}, False),  # of an earlier run
    ],
)
def test_the_engine_flag_of_lacking_memory_counts_for_the_last_end(
    state: dict[str, Any], *, out_of_memory: bool
) -> None:
    assert container(state).oom_killed is out_of_memory


def test_the_stop_time_of_a_container_is_known() -> None:
    given = document(RUNNING)
    given["Config"]["StopTimeout"] = 400
    found = from_inspect(given)
    assert found is not None
    assert (found.stop_timeout, container(RUNNING).stop_timeout) == (400.0, None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:01.123456789Z", 1.123456),
        ("1970-01-01T02:00:01+02:00", 1.0),
        ("0001-01-01T00:00:00Z", None),
        ("", None),
        (None, None),
        ("yesterday", None),
    ],
)
def test_times_are_seconds_since_1970(text: str | None, seconds: float | None) -> None:
    assert container(RUNNING | {"FinishedAt": text}).finished == seconds


def test_files_of_compose_v1_are_relative_to_the_project_directory() -> None:
    files = {"com.docker.compose.project.config_files": "docker-compose.yaml,../common.yaml"}
    assert container(RUNNING, **files).config_files == ("/srv/site/docker-compose.yaml", "/srv/common.yaml")


def test_a_container_of_compose_run_is_no_service_container() -> None:
    assert from_inspect(document(RUNNING, **{"com.docker.compose.oneoff": "True"})) is None


@pytest.mark.parametrize("missing", ["com.docker.compose.project", "com.docker.compose.service"])
def test_a_container_without_compose_labels_is_no_service_container(missing: str) -> None:
    assert from_inspect(document(RUNNING, **{missing: ""})) is None


def test_missing_fields_of_a_document_have_defaults() -> None:
    assert from_inspect({}) is None
    assert from_inspect({"Id": "4cbe", "Config": None, "State": None}) is None
    labels = {"com.docker.compose.project": "p", "com.docker.compose.service": "s"}
    found = from_inspect({"Id": "4cbe", "Config": {"Labels": labels}})
    assert found is not None
    assert (found.number, found.config_files, found.running, found.status) == (1, (), False, "exited")


def test_a_list_entry_is_a_container_without_times() -> None:
    entry = {"Id": "4cbe", "Names": ["/x"], "ImageID": "sha256:9734", "Labels": LABELS, "State": "running"}
    found = from_list(entry)
    assert found is not None
    assert (found.name, found.image, found.running, found.status) == ("x", "sha256:9734", True, "running")
    assert (found.started, found.pid) == (None, 0)
