"""The table of `status` on terminals of several widths and encodings, under a terminal emulator."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client import words

from tests.client.emulator import Emulator
from tests.client.fake_daemon import FakeDaemon

REASON = "no command: agent class 'Lakeshore240' has none (known: FakeData, Registry, ThermoRackReader)"


def lab(daemon: FakeDaemon) -> None:
    for n in range(1, 131):
        down = {"next_action": pb.NEXT_ACTION_DOWN, "target_state": pb.TARGET_STATE_DOWN, "reason": "Stopped"}
        daemon.add(f"agent-{n:03d}", position=n, **(down if n % 11 == 0 else {}))
    daemon.add("thermo", position=131, next_action=pb.NEXT_ACTION_UNKNOWN, operable=False,
               reason="NotOperable", message=REASON)  # fmt: skip
    daemon.page_limit = 500


@pytest.mark.parametrize("width", [60, 80, 100, 130, 200])
def test_131_instances_fit_the_terminal(daemon: FakeDaemon, socket: Path, width: int) -> None:
    lab(daemon)
    with Emulator(["status", "-a", str(socket)], width, 200) as terminal:
        assert terminal.ends() == 0
        terminal.sees("agent-130")
        lines = terminal.lines
    assert lines[0] == "119 up · 11 down · 1 unknown"
    head = next(n for n, line in enumerate(lines) if line.startswith("INSTANCE"))
    first_good = next(n for n, line in enumerate(lines) if line.startswith("agent-001"))
    start = lines[head].index("MESSAGE")
    assert lines[head + 1].startswith("thermo ")
    assert " ".join(line[start:] for line in lines[head + 1 : first_good]) == REASON
    assert [line.split()[0] for line in lines[first_good : first_good + 130]] == [
        f"agent-{n:03d}" for n in range(1, 131)
    ], "a line each: nothing wraps"
    others = " ".join(lines[1:head])
    assert "manager running, host daq1" in others
    assert all(word in others.split() for word in ("hostmanager", "4242,", f"unix:{socket}"))


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_events_fit_the_terminal(daemon: FakeDaemon, socket: Path, width: int) -> None:
    for _ in range(2):
        daemon.happen(REASON, "a-rather-long-instance-01", kind=pb.EVENT_KIND_EXIT, reason="Exited",
                      severity=pb.SEVERITY_ERROR)  # fmt: skip
    with Emulator(["events", "-a", str(socket)], width, 30) as terminal:
        assert terminal.ends() == 0
        terminal.sees("Exited:")
        lines = [line for line in terminal.lines if line]
    when = words.to_datetime(daemon.events[0].time).astimezone()
    if lines[0].startswith("---"):  # no room for the date in each line
        assert lines.pop(0) == f"--- {when:%Y-%m-%d}"
    else:
        assert lines[0].startswith(f"{when:%Y-%m-%d}  {when:%H:%M:%S}.")
    start = lines[0].index("Exited:")
    assert " ".join(line[start:] for line in lines) == f"Exited: {REASON} Exited: {REASON}"
    assert ("error" in lines[0], "exit  " in lines[0]) == (width >= 120, width >= 200)
    assert "stance-01" in lines[0]


def test_wide_shows_all_columns_on_a_narrow_terminal(daemon: FakeDaemon, socket: Path) -> None:
    daemon.add("data1")
    with Emulator(["status", "--wide", "-a", str(socket)], 60) as terminal:
        assert terminal.ends() == 0
        terminal.sees("data1")
        assert b"STABILITY" in terminal.raw


@pytest.mark.parametrize(
    ("env", "summary"),
    [
        ({"PYTHONIOENCODING": "latin-1"}, b"1 up\x1b[0m \xb7 "),
        ({"PYTHONIOENCODING": "ascii"}, b"1 up\x1b[0m | "),
        ({"LC_ALL": "C"}, b"1 up\x1b[0m | "),
    ],
)
def test_a_terminal_without_utf_8_gets_plain_characters(
    daemon: FakeDaemon, socket: Path, env: dict[str, str], summary: bytes
) -> None:
    daemon.add("data1")
    daemon.add("温", next_action=pb.NEXT_ACTION_DOWN, reason="Failed", message="a…" + "b" * 100)
    with Emulator(["status", "-a", str(socket)], 80, env=env) as terminal:
        assert terminal.ends() == 0
        terminal.sees("FakeData")
        raw = bytes(terminal.raw)
    assert summary in raw
    assert "…".encode() not in raw
