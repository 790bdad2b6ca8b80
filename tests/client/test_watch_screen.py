"""The screen of `watch` on a terminal, as a person sees it: under a terminal emulator."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import grpc
import pytest
from hostmanager.v1 import host_manager_pb2 as pb

from tests.client.emulator import Emulator
from tests.client.fake_daemon import FakeDaemon

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "watch.md"


def lab(daemon: FakeDaemon) -> None:
    """Add 131 instances: most are up, some are down, one fails again and again."""
    daemon.page_limit = 500
    for n in range(1, 131):
        down = n % 11 == 0
        one = daemon.add(
            f"thermo{n:03d}", position=n, agent_class="Thermometer",
            target_state=pb.TARGET_STATE_DOWN if down else pb.TARGET_STATE_UP,
            next_action=pb.NEXT_ACTION_DOWN if down else pb.NEXT_ACTION_UP,
            reason="Stopped" if down else "Running", message="never started" if down else "running",
        )  # fmt: skip
        one.start_time.seconds -= 3 * 86400
        if down:
            one.ClearField("start_time")
            one.process.pid = 0
        daemon.publish(one)
    failing(daemon)


def failing(daemon: FakeDaemon) -> None:
    """Add an instance that ended 2 s ago."""
    one = daemon.add(
        "camera", position=131, agent_class="Camera", next_action=pb.NEXT_ACTION_START_AT,
        reason="BackingOff", message="last exit: code 1; waiting to restart", consecutive_failures=4,
        restart_count=4,
    )  # fmt: skip
    one.ClearField("start_time")
    one.process.pid = 0
    one.last_exit.time.GetCurrentTime()
    one.last_exit.time.seconds -= 2
    one.last_exit.code = 1
    one.last_exit.last_output = "no camera on /dev/video0"
    one.at.GetCurrentTime()
    one.at.seconds += 300
    daemon.publish(one)


def masked(lines: list[str]) -> list[str]:
    """Return lines of a screen without what differs from run to run: ages and the address."""
    text = "\n".join(lines)
    text = re.sub(r"\d+(\.\d)? (s|min|h|d)( \d+ (h|min))?\b", "AGE", text)
    text = re.sub(r"unix:\S*", "ADDRESS", text)
    text = re.sub(r"\S*…$", "…", text, flags=re.MULTILINE)  # ages decide where a message is cut
    return [re.sub(" +", " ", line).rstrip() for line in text.splitlines()]


def test_131_instances_on_30_lines_as_the_page_shows(daemon: FakeDaemon, socket: Path) -> None:
    lab(daemon)
    with Emulator(["watch", "-a", str(socket)], 100, 30) as screen:
        screen.sees("119 up", "thermo021")
        found = re.search(r"<!-- screen: begin -->\n\n```text\n(.*?)\n```", PAGE.read_text(), re.DOTALL)
        assert found is not None
        assert masked(found[1].splitlines()) == masked(screen.lines), screen.text
        screen.type("G")
        screen.sees("thermo130: running", "119 up · 11 down · 1 failing")
        screen.type("g")
        screen.sees("camera: code 1, ", '"no camera on /dev/video0"; restarting in ')
        screen.type("q")
        assert screen.ends() == 0
        assert screen.is_restored()


def test_a_session_at_80_by_24(daemon: FakeDaemon, socket: Path) -> None:
    lab(daemon)
    daemon.write("thermo002", "first line", "温度 21 °C \x1b[2J\x1b[31mred")
    daemon.happen("started with pid 1", "thermo002", kind=pb.EVENT_KIND_LAUNCH, reason="Launched")
    with Emulator(["watch", "-a", str(socket)]) as screen:
        screen.sees("119 up")
        assert max(map(len, screen.lines)) <= 80
        screen.type("/THERMO002\r")
        screen.sees("[filter 'THERMO002': 1 of 131]", "q quit")
        screen.type("l")
        screen.sees("output of thermo002", "温度 21 °C red")
        daemon.write("thermo002", "a new line")
        screen.sees("a new line")
        screen.type("q")
        screen.type("e")
        screen.sees("events of thermo002", "Launched: started with pid 1")
        daemon.happen("its end", "thermo002", reason="Exited")
        screen.sees("Exited: its end")
        daemon.explanations.append(pb.Explanation(instance=daemon.instances["camera"], hints=["look at it"]))
        screen.type("qw")
        screen.sees("why thermo002", "camera: start_at instead of up", "try        look at it")
        screen.type("q\r")
        screen.sees("management:", "host")
        screen.type("qr")
        screen.sees("Restart thermo002? y: yes")
        daemon.fail_next = (
            grpc.StatusCode.FAILED_PRECONDITION,
            "the manager is stopped",
            "MANAGER_STOPPED",
            [],
        )
        screen.type("y")
        screen.sees("the manager is stopped (`hostmanager manager start`)")
        screen.type("d")
        screen.sees("Set the target of thermo002 to down, which stops it?")
        screen.type("y")
        screen.sees("thermo002: target down")
        assert daemon.instances["thermo002"].target_state == pb.TARGET_STATE_DOWN
        screen.type("?")
        screen.sees("Keys of the table")
        screen.type("q\x1b")
        screen.sees("q quit")
        screen.sees_no("[filter")
        daemon.wait_until(lambda: daemon.streams == 1)  # pages end their streams
        screen.type("q")
        assert screen.ends() == 0


def test_a_lost_daemon_is_told_and_found_again(daemon: FakeDaemon, socket: Path) -> None:
    daemon.add("data1")
    with Emulator(["watch", "-a", str(socket)], 120) as screen:
        screen.sees("data1")
        daemon.stop()
        screen.sees("CUT OFF for ", "shown: the state of ", " ago; next attempt in ", "data1")
        daemon.change("data1", next_action=pb.NEXT_ACTION_WAIT_DEAD, message="sent SIGINT")
        daemon.start()
        screen.sees("sent SIGINT", "manager running")
        screen.sees_no("CUT OFF")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_restores_the_terminal(daemon: FakeDaemon, socket: Path, signum: int) -> None:
    daemon.add("data1")
    with Emulator(["watch", "-a", str(socket)]) as screen:
        screen.sees("data1")
        assert not screen.is_restored()
        assert screen.ends(signum) == (130 if signum == signal.SIGINT else -signum)
        assert screen.is_restored()
    daemon.wait_until(lambda: daemon.streams == 0)


def test_a_resize_is_followed_and_a_change_redraws_only_its_lines(daemon: FakeDaemon, socket: Path) -> None:
    lab(daemon)
    with Emulator(["watch", "-a", str(socket)], 100, 30) as screen:
        screen.sees("thermo021")
        drawn = len(screen.raw)
        daemon.change("thermo002", next_action=pb.NEXT_ACTION_WAIT_DEAD, message="sent SIGINT")
        screen.sees("sent SIGINT")
        update = bytes(screen.raw[drawn:])
        assert b"\x1b[2J" not in update
        assert b"thermo010" not in update
        screen.resize(200, 12)
        screen.sees("STABILITY")
        assert screen.lines[-1].startswith("q quit")
        screen.resize(60, 40)
        screen.sees_no("STABILITY")
        screen.sees("thermo031")


@pytest.mark.parametrize(("args", "env"), [((), {"TERM": "dumb"}), (("--lines",), {})])
def test_without_a_screen_lines_are_printed(
    daemon: FakeDaemon, socket: Path, args: tuple[str, ...], env: dict[str, str]
) -> None:
    daemon.add("data1")
    with Emulator(["watch", *args, "-a", str(socket)], 5000, env=env) as screen:
        screen.sees('"snapshot":"initial"')
        assert json.loads(screen.lines[0])["instances"][0]["instance_id"] == "data1"
        assert b"\x1b" not in screen.raw
        assert screen.ends(signal.SIGINT) == 130


@pytest.mark.parametrize(
    ("env", "name"),
    [({"PYTHONIOENCODING": "latin-1"}, "Größe".encode("latin-1")), ({"LC_ALL": "C"}, b"data1")],
)
def test_a_terminal_without_utf_8_has_plain_characters(
    daemon: FakeDaemon, socket: Path, env: dict[str, str], name: bytes
) -> None:
    daemon.add("data1")
    daemon.add("Größe", next_action=pb.NEXT_ACTION_DOWN, reason="Failed", message="温→" + "b" * 200)
    with Emulator(["watch", "-a", str(socket)], 80, env=env) as screen:
        screen.sees("data1", "1 failing")
        screen.type("q")
        assert screen.ends() == 0
        assert screen.is_restored()
        assert name in screen.raw
        assert not any(character.encode() in screen.raw for character in "…·→")


def test_an_absent_daemon_is_an_error_as_ever(socket: Path) -> None:
    with Emulator(["watch", "-a", str(socket)], 200) as screen:
        assert screen.ends() == 3
        screen.sees("no such socket")
        assert screen.is_restored()
