"""The tour: what the demo shows where there is no terminal, step by step, with the times it took."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import closing

import click
import yaml
from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_client.demo.lab import DemoError, Lab
from hostmanager_client.demo.signals import time_limit
from hostmanager_client.sync import HostManagerClient
from hostmanager_client.words import event_word, to_seconds

STEP_WITHIN = 30.0  # s; each takes a few


def take_tour(lab: Lab) -> None:
    """Show everything, on standard output. Raises DemoError or HostManagerError when a step fails."""
    with lab.client() as client:
        Tour(lab, client).take()


class Tour:
    """One walk through the lab."""

    def __init__(self, lab: Lab, client: HostManagerClient) -> None:
        self._lab = lab
        self._client = client

    def take(self) -> None:
        """Every step, in order."""
        for number, (title, step) in enumerate(self._steps(), start=1):
            click.echo(f"\n=== {number}. {title}")
            with time_limit(STEP_WITHIN, title):
                step()

    def _steps(self) -> tuple[tuple[str, Callable[[], None]], ...]:
        return (
            ("The lab comes up; the scanner waits for the registry to answer", self._come_up),
            ("A thermometer is killed: it is back after the first backoff, 0.1 s", self._kill),
            ("An instance goes down and up on request", self._down_and_up),
            ("A readout that ignores INT goes down: TERM follows", self._escalate),
            ("A camera server goes down, and its daemonised frame grabbers with it", self._whole_tree),
            ("The site config changes: what is new starts, what changed waits for a restart", self._reload),
        )

    # --- the steps

    def _come_up(self) -> None:
        with closing(self._client.watch(on_connection=self._lab.notice)) as updates:
            for update in updates:
                wanted = (i for i in update.state.instances.values() if i.target_state == pb.TARGET_STATE_UP)
                if all(i.next_action == pb.NEXT_ACTION_UP for i in wanted):
                    break
        self._run("status")
        self._run("logs", "-n", "2", "thermo1")

    def _kill(self) -> None:
        pid = self._client.get_instance("thermo1").process.pid
        since = self._client.list_events(newest=1).resume_token
        click.echo(f"\n$ kill -9 {pid}")
        killed = time.time()
        os.kill(pid, signal.SIGKILL)
        self._show_events("thermo1", since, killed, until=pb.EVENT_KIND_UP)

    def _down_and_up(self) -> None:
        self._run("down", "thermo2", "--wait")
        self._run("up", "thermo2", "--wait")

    def _escalate(self) -> None:
        since = self._client.list_events(newest=1).resume_token
        asked = time.time()
        self._run("down", "readout", "--wait")
        self._show_events("readout", since, asked, until=pb.EVENT_KIND_DOWN)

    def _whole_tree(self) -> None:
        pids = self._lab.mark.pids("cameras")
        sessions = {os.getsid(pid) for pid in pids}
        click.echo(f"\ncameras: {len(pids)} processes in {len(sessions)} sessions")
        if len(sessions) < 2:
            raise DemoError("the camera server has no daemonised frame grabbers to show")
        self._run("down", "cameras", "--wait")
        if left := self._lab.mark.pids("cameras"):
            raise DemoError(f"'cameras' is down, and yet there are processes of it: {left}")
        click.echo("\ncameras: no process left")

    def _reload(self) -> None:
        site_file = self._lab.site_file
        site = yaml.safe_load(site_file.read_text(encoding="utf-8"))
        instances = site["hosts"]["localhost"]["agent-instances"]
        thermo2 = next(i for i in instances if i["instance-id"] == "thermo2")
        instances.append(thermo2 | {"instance-id": "thermo3"})
        thermo2["arguments"] = ["--setpoint", "0.1"]
        site_file.write_text(yaml.safe_dump(site, sort_keys=False), encoding="utf-8")
        click.echo("\nin the site config: a new instance thermo3, and another setpoint for thermo2")
        self._run("reload")
        with closing(self._client.watch(["thermo3"], on_connection=self._lab.notice)) as updates:
            for update in updates:
                thermo3 = update.state.instances.get("thermo3")
                if thermo3 is not None and thermo3.next_action == pb.NEXT_ACTION_UP:
                    break
        if not self._client.get_instance("thermo2").restart_required:
            raise DemoError("thermo2 runs an older command than the config has, and is not said to")
        self._run("status")
        self._run("restart", "thermo2", "--wait")
        if self._client.get_instance("thermo2").restart_required:
            raise DemoError("thermo2 was restarted, and is still said to run an older command")

    # --- how they are shown

    def _run(self, *arguments: str) -> None:
        """Run a `hostmanager` command and show it with what it prints."""
        shown = " ".join(("hostmanager", *arguments))
        click.echo(f"\n$ {shown}")
        done = subprocess.run(
            [self._lab.command, *arguments],
            env=self._lab.environment | self._lab.mark.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        click.echo(done.stdout.rstrip("\n"))
        if done.returncode:
            raise DemoError(f"'{shown}' ended with exit code {done.returncode}")

    def _show_events(self, instance_id: str, since: str, start: float, until: pb.EventKind.ValueType) -> None:
        """Print the events of an instance from a resume token up to one kind, with seconds since `start`."""
        with closing(
            self._client.watch_events([instance_id], resume_token=since, on_connection=self._lab.notice)
        ) as events:
            for event in events:
                if isinstance(event, pb.EventGap):
                    raise DemoError(f"events were lost: {event.message}")
                after = to_seconds(event.time) - start
                click.echo(f"  {after:+7.3f} s  {event_word(event.kind):<12}  {event.message}")
                if event.kind == until:
                    return
