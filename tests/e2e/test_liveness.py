"""Liveness probes of a real daemon, through the command line."""

from __future__ import annotations

import json
import signal
import subprocess

from hostmanager.v1 import host_manager_pb2 as pb

from tests.e2e.daemon import COMMAND, PATIENCE, Site
from tests.waiting import wait_until


def show(site: Site, *options: str) -> str:
    done = subprocess.run(
        [COMMAND, "-a", f"unix:{site.socket}", "show", "a", *options],
        capture_output=True, text=True, check=True, timeout=PATIENCE,
    )  # fmt: skip
    return done.stdout


def test_an_agent_that_hangs_is_restarted_also_by_the_next_daemon(site: Site) -> None:
    alive = {"command": ["test", "!", "-e", str(site.folder / "hung")], "interval": 0.05, "failures": 2}
    site.write([{"instance-id": "a", "command": ["sleep", "100000"], "up-after": 0, "alive": alive}])
    first = site.start()
    first.wait_for("a", pb.NEXT_ACTION_UP)
    wait_until(lambda: "last answer:" in show(site) and "alive, 2" in show(site), "an answer of the probe")
    first.end(signal.SIGKILL)
    second = site.start()
    before = second.wait_for("a", pb.NEXT_ACTION_UP)
    assert before.restart_count == 0
    (site.folder / "hung").touch()
    wait_until(lambda: second.instance("a").restart_count > 0, "a restart of the hung agent")
    (site.folder / "hung").unlink()
    after = second.wait_for("a", pb.NEXT_ACTION_UP)
    assert after.process.pid != before.process.pid
    assert not after.last_exit.expected
    assert "2 liveness probes in a row failed (the probe ended with code 1)" in after.last_exit.message
    assert "Unresponsive" in [event.reason for event in second.events("a")]
    wait_until(lambda: json.loads(show(site, "--json"))["liveness"]["answer"] == "alive", "an answer in JSON")
