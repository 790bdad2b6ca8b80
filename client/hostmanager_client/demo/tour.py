"""The tour of the demo, for output without a terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial

import click
import yaml
from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_client.cli.escape import one_line
from hostmanager_client.demo.compose import DockerError, LabProject
from hostmanager_client.demo.lab import DemoError, DemoLab
from hostmanager_client.demo.signals import time_limit
from hostmanager_client.state import HostState
from hostmanager_client.sync import HostManagerClient
from hostmanager_client.words import event_word, to_seconds

STEP_WITHIN = 90.0  # s; a step takes a few seconds


def take_tour(lab: DemoLab) -> None:
    """Print the tour on standard output; raise DemoError or HostManagerError if a step fails."""
    with lab.client() as client:
        Tour(lab, client).take()


class Tour:
    """The steps of the tour."""

    def __init__(self, lab: DemoLab, client: HostManagerClient) -> None:
        self._lab = lab
        self._client = client

    def take(self) -> None:
        """Take every step in order."""
        for number, (title, step) in enumerate(self._steps(), start=1):
            click.echo(f"\n=== {number}. {title}")
            try:
                with time_limit(STEP_WITHIN, title):
                    step()
            except DockerError as error:
                raise DemoError(f"docker failed: {error}") from error

    def _steps(self) -> tuple[tuple[str, Callable[[], None]], ...]:
        return (
            ("The lab comes up; the scanner waits for the registry to answer", self._come_up),
            ("A thermometer is killed: it restarts after the first backoff, 0.1 s", self._kill),
            ("An instance goes down and up on request", self._down_and_up),
            ("A readout that ignores INT goes down: TERM follows", self._escalate),
            ("A camera server goes down, and its daemonised frame grabbers with it", self._whole_tree),
            (
                "The site config changes: a new instance starts; a changed one needs a restart",
                self._reload,
            ),
            *(self._compose_steps(self._lab.services) if self._lab.services else ()),
        )

    def _compose_steps(self, services: LabProject) -> tuple[tuple[str, Callable[[], None]], ...]:
        return (
            (
                "A container is killed: its compose service restarts like any other instance",
                partial(self._kill_container, services),
            ),
            ("A service without an entry in the site config goes up on request", self._bring_up_unclaimed),
            (
                "The compose file asks for another image: a restart moves the service to it",
                partial(self._move_to_image, services),
            ),
            (
                "A service is renamed in the compose file: its container is an orphan",
                partial(self._rename, services),
            ),
        )

    # --- the steps

    def _come_up(self) -> None:
        self._watch_for(_all_up)
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
        if alive := self._lab.mark.pids("cameras"):
            raise DemoError(f"'cameras' is down, but processes of it are alive: {alive}")
        click.echo("\ncameras: no process is alive")

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
        self._watch_for(lambda state: "thermo3" in state.instances and _all_up(state))
        if not self._client.get_instance("thermo2").restart_required:
            raise DemoError("thermo2 runs an outdated command, but its status does not show that")
        self._run("status")
        self._run("restart", "thermo2", "--wait")
        if self._client.get_instance("thermo2").restart_required:
            raise DemoError("thermo2 was restarted, but its status still shows an outdated command")

    # --- the steps with compose services

    def _kill_container(self, services: LabProject) -> None:
        name = self._client.get_instance("weather").compose_service.container_name
        since = self._client.list_events(newest=1).resume_token
        click.echo(f"\n$ docker kill {name}")
        killed = time.time()
        services.docker("kill", name)
        self._show_events("weather", since, killed, until=pb.EVENT_KIND_UP)

    def _bring_up_unclaimed(self) -> None:
        self._run("up", "dashboard", "--wait")
        self._run("status", "archive", "dashboard", "weather")

    def _move_to_image(self, services: LabProject) -> None:
        before, after = services.image(1), services.image(2)
        service = f"ocs-weather:\n    image: {before}"
        services.edit(service, service.replace(before, after))
        click.echo(f"\nin the compose file: image {after} for ocs-weather")
        self._watch_for(lambda state: "weather" in state.manager.new_tags)
        self._run("status", "weather")
        click.echo(f"\n$ {services.folder.name}/make-image {after}   # with a registry: hostmanager pull")
        services.make_image(2)
        self._watch_for(lambda state: not state.manager.new_tags)
        self._run("restart", "weather", "--wait")
        self._run("show", "weather")
        weather = self._client.get_instance("weather")
        if weather.restart_required or weather.compose_service.image_tag != after:
            raise DemoError(f"weather was restarted, but does not run the image {after}")

    def _rename(self, services: LabProject) -> None:
        services.edit("dashboard:", "panel:")
        click.echo("\nin the compose file: dashboard is now called panel")
        self._watch_for(lambda state: bool(state.manager.orphans) and "panel" in state.instances)
        self._run("up", "panel", "--wait")
        self._run("orphans", "list")
        self._run("orphans", "remove")
        services_left = sorted(services.containers().values())
        if services_left != ["ocs-archive", "ocs-weather", "panel"]:
            raise DemoError(f"more than the orphan was removed; containers now: {', '.join(services_left)}")

    def _watch_for(self, condition: Callable[[HostState], bool]) -> None:
        """Watch until the condition holds."""
        with closing(self._client.watch(on_connection=self._lab.check_daemon)) as updates:
            for update in updates:
                if condition(update.state):
                    return

    # --- output

    def _run(self, *arguments: str) -> None:
        """Run a `hostmanager` command, and print the command and its output."""
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
        """Print the events of an instance from a token up to the kind `until`; times since `start`."""
        with closing(
            self._client.watch_events([instance_id], resume_token=since, on_connection=self._lab.check_daemon)
        ) as events:
            for event in events:
                if isinstance(event, pb.EventGap):
                    raise DemoError(f"events were lost: {event.message}")
                after = to_seconds(event.time) - start
                click.echo(f"  {after:+7.3f} s  {event_word(event.kind):<12}  {one_line(event.message)}")
                if event.kind == until:
                    return


def _all_up(state: HostState) -> bool:
    """Return whether all instances with target up are up; False without such instances."""
    wanted = [i for i in state.instances.values() if i.target_state == pb.TARGET_STATE_UP]
    return bool(wanted) and all(i.next_action == pb.NEXT_ACTION_UP for i in wanted)
