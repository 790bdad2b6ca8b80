"""The use of CPU, memory, tasks and descriptors: `top`, `show`, `status --wide`, and the client."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import Result
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client import InvalidRequest, Selector
from hostmanager_client.cli.tables.top import top_lines
from hostmanager_client.cli.usage_text import percent, size

from tests.client.cli_runner import TRANSPORTS, command_line, make_runner
from tests.client.fake_daemon import FakeDaemon

Run = Callable[..., Result]


@pytest.fixture(params=TRANSPORTS)
def run(request: pytest.FixtureRequest, socket: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("HOSTMANAGER_TRANSPORT", request.param)
    monkeypatch.setenv("HOSTMANAGER_ADDRESS", str(socket))

    def invoke(*args: str) -> Result:
        return make_runner().invoke(command_line, args, prog_name="hostmanager", catch_exceptions=False)

    return invoke


def usage(instance_id: str, **fields: Any) -> pb.InstanceUsage:
    values: dict[str, Any] = {
        "cpu": 0.5, "cpu_time": {"seconds": 75}, "memory": 3 * 2**20, "processes": 2, "tasks": 7,
        "memory_source": pb.InstanceUsage.MEMORY_SOURCE_CGROUP, "descriptors": 12,
    }  # fmt: skip
    return pb.InstanceUsage(instance_id=instance_id, **{**values, **fields})


@pytest.fixture
def lab(daemon: FakeDaemon) -> FakeDaemon:
    for instance_id in ("cam1", "cam2", "thermo1"):
        daemon.add(instance_id)
    daemon.usages = [
        usage("cam1", memory=2**30, memory_limit=2**30),
        usage("thermo1", cpu=1.5),
    ]
    return daemon


def test_top_prints_a_sorted_table_once(lab: FakeDaemon, run: Run) -> None:
    result = run("top", "--once")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "2 running instances, CPU 200%, memory 1.0G, 14 tasks"
    assert [line.split()[0] for line in lines[2:]] == ["INSTANCE", "thermo1", "cam1"]
    assert lines[3].split() == ["thermo1", "150%", "3.0M", "7", "12", "2", "75", "s"]
    assert "1.0G of 1.0G" in lines[4]
    by_memory = run("top", "--once", "--sort", "memory").stdout.splitlines()
    assert [line.split()[0] for line in by_memory[3:]] == ["cam1", "thermo1"]
    assert lab.requests[-1].window.nanos  # type: ignore[attr-defined]  # a GetUsageRequest


def test_top_as_json(lab: FakeDaemon, run: Run) -> None:
    document = json.loads(run("top", "--once", "--json", "thermo1").stdout)
    [found] = document["usages"]
    assert found["instance_id"] == "thermo1"
    assert (found["cpu"], found["cpu_time"], found["memory_limit"]) == (1.5, 75.0, None)
    assert found["memory_source"] == "cgroup"


def test_show_and_a_wide_status_have_the_usage(lab: FakeDaemon, run: Run) -> None:
    shown = run("show", "cam1").stdout
    assert "1.0G of 1.0G" in shown
    assert "7 in 2 processes" in shown
    assert "memory:" not in run("show", "cam2").stdout
    assert json.loads(run("show", "cam1", "--json").stdout)["usage"]["tasks"] == 7
    assert json.loads(run("show", "cam2", "--json").stdout)["usage"] is None
    wide = run("status", "--wide").stdout.splitlines()
    header = next(line for line in wide if line.startswith("INSTANCE"))
    assert header.split()[-5:] == ["CPU", "MEMORY", "TASKS", "FDS", "MESSAGE"]
    assert "CPU" not in run("status").stdout
    instances = json.loads(run("status", "--wide", "--json").stdout)["instances"]
    assert [i["usage"] and i["usage"]["tasks"] for i in instances] == [7, None, 7]
    assert "usage" not in json.loads(run("status", "--json").stdout)["instances"][0]


def test_show_does_without_the_usage_of_an_older_daemon(
    lab: FakeDaemon, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(self: FakeDaemon, request: Any, context: Any) -> Any:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")

    lab.stop()
    monkeypatch.setattr(FakeDaemon, "GetUsage", unknown)
    lab.start()
    result = run("show", "cam1")
    assert (result.exit_code, result.stderr) == (0, "")
    assert run("top", "--once").exit_code == 1


def test_the_client_measures_and_follows(lab: FakeDaemon, client: Any) -> None:
    answer = client.get_usage([Selector("cam*")], window=0.25)
    assert [each.instance_id for each in answer.usages] == ["cam1"]
    samples = client.watch_usage(interval=0.5)
    assert [len(sample.usages) for sample in islice(samples, 3)] == [2, 2, 2]
    assert len(next(client.watch_usage([f"cam{n}" for n in range(1001)])).usages) == 1
    with pytest.raises(InvalidRequest, match="the range is"):
        client.get_usage(window=11.0)
    with pytest.raises(InvalidRequest, match="the range is"):
        client.watch_usage(interval=0.1)


def test_top_lists_only_what_fits_the_screen() -> None:
    lines = top_lines([usage(f"a{n}") for n in range(20)], "id", 3)
    assert [line.split()[0] for line in lines[3:6]] == ["a0", "a1", "a10"]
    assert lines[-1] == "and 17 more"
    assert top_lines([], "cpu") == ["0 running instances, CPU 0.0%, memory 0 B, 0 tasks"]
    [*_, line] = top_lines([pb.InstanceUsage(instance_id="new", tasks=1)], "cpu")
    assert line.split()[:5] == ["new", "-", "0", "B", "1"]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1024, "1.0K"),
        (10 * 2**20, "10M"),
        (1_023_999_999, "977M"),
        (2**62, "4194304T"),
    ],
)
def test_sizes_are_short(count: int, text: str) -> None:
    assert size(count) == text


def test_small_percentages_have_a_decimal() -> None:
    assert [percent(cpu) for cpu in (0.0, 0.004, 0.0996, 1.0)] == ["0.0%", "0.4%", "10%", "100%"]
