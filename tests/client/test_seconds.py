"""Checks of numbers of seconds, and their error texts."""

from __future__ import annotations

import math

import pytest
from click.testing import CliRunner
from hostmanager_client.aio import AsyncHostManagerClient
from hostmanager_client.cli.app import cli
from hostmanager_client.docker import OrphanStream
from hostmanager_client.errors import InvalidRequest
from hostmanager_client.streams import check_heartbeat
from hostmanager_client.sync import HostManagerClient

NONE = "unix:/nonexistent/s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.9999999, "0.9999999 s"), (3600.0001, "3600.0001 s"), (math.nan, "nan s"), (5000, "5000 s")],
)
def test_a_heartbeat_out_of_range_is_reported_with_all_digits(seconds: float, text: str) -> None:
    with pytest.raises(InvalidRequest, match=f"of {text}: the range is 1 s to 3600 s"):
        check_heartbeat(seconds)


@pytest.mark.parametrize(("seconds", "text"), [(-1e-7, "-1e-07 s"), (3600.0001, "3600.0001 s")])
def test_a_stop_timeout_out_of_range_is_reported_with_all_digits(seconds: float, text: str) -> None:
    with pytest.raises(InvalidRequest, match=f"use {text} as stop_timeout: the range is 0 s to 3600 s"):
        OrphanStream((), seconds)


@pytest.mark.parametrize("seconds", [math.nan, math.inf, 1e300, 0.0, -1.0])
def test_a_bad_timeout_is_refused_without_a_call(seconds: float) -> None:
    with pytest.raises(InvalidRequest, match="as timeout: the range is more than 0 s"):
        HostManagerClient(NONE, timeout=seconds)
    with pytest.raises(InvalidRequest, match="as timeout: the range is more than 0 s"):
        AsyncHostManagerClient(NONE, timeout=seconds)


@pytest.mark.parametrize("text", ["nan", "inf", "1e300", "0", "x"])
@pytest.mark.parametrize(
    "command",
    [("--timeout", "T", "status"), ("orphans", "remove", "--stop-timeout", "T"),
     ("pull", "--progress-timeout", "T")],
)  # fmt: skip
def test_the_command_line_refuses_bad_numbers_of_seconds(text: str, command: tuple[str, ...]) -> None:
    if text == "0" and "--stop-timeout" in command:
        return  # kills at once
    arguments = [text if word == "T" else word for word in command]
    result = CliRunner().invoke(cli, ["--address", NONE, *arguments])
    assert result.exit_code == 2, result.output
    assert "Invalid value for" in result.output
