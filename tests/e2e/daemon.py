"""Real daemons on a site of one test, called through the generated stubs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc
from hostmanager_server.linux.pidfds import read_stat

from tests.waiting import TIMEOUT, wait_until

PATIENCE = TIMEOUT
COMMAND = Path(sys.executable).with_name("hostmanager")


def marked(state_dir: Path) -> list[int]:
    """Return the live processes with this state directory in TEST_SITE."""
    needle = b"TEST_SITE=" + os.fsencode(state_dir)
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and needle in environment(entry)]


def environment(pid: int | str) -> list[bytes]:
    """Return the variables that a process was started with; empty for a dead process."""
    deadline = time.monotonic() + 1.0
    while True:
        stat = read_stat(pid)
        if stat is None or not stat.alive or stat.kernel_thread:
            return []
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes()
            # During an exec, both files read empty.
            if environ or Path(f"/proc/{pid}/cmdline").read_bytes() or time.monotonic() > deadline:
                return environ.split(b"\0")
        except OSError:
            return []
        time.sleep(0.001)


def end_marked(state_dir: Path) -> None:
    """Kill the processes that `marked` finds, until `marked` finds none.

    A found process may start another one before the signal arrives.
    """

    def gone() -> bool:
        remaining = marked(state_dir)
        for pid in remaining:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not remaining

    wait_until(gone, f"the end of all processes marked with {state_dir}")


class Site:
    """A site config file, and the daemons that the test starts with that file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "site.yaml"
        self.state_dir = folder / "state"
        self.socket = folder / "hm.sock"
        self.environ: Mapping[str, str] = os.environ  # the environment of the daemons
        self.daemons: list[Daemon] = []

    def write(self, instances: list[dict[str, Any]], **top: Any) -> None:
        """Write the site config with these `agent-instances`.

        An instance without a class gets the class Test.
        """
        for instance in instances:
            instance.setdefault("agent-class", "Test")
        site = {"hosts": {"localhost": {"agent-instances": instances}}, **top}
        self.file.write_text(yaml.safe_dump(site, sort_keys=False))

    def start(self, *flags: str, wait: bool = True, program: Sequence[str | Path] = (COMMAND,)) -> Daemon:
        daemon = Daemon(self, flags, program)
        self.daemons.append(daemon)
        if wait:
            daemon.wait_until_serving()
        return daemon

    def kill_daemons(self) -> None:
        """Kill the running daemons, so that no daemon acts on the agents."""
        for daemon in self.daemons:
            if daemon.process.poll() is None:
                daemon.process.kill()
                daemon.process.wait()
            daemon.channel.close()

    def clean_up(self) -> None:
        """Kill the daemons of the site, and all processes that the daemons started."""
        self.kill_daemons()
        end_marked(self.state_dir)

    def processes(self) -> list[int]:
        """Return the live processes that the site's daemons started, without the daemons."""
        daemons = {daemon.pid for daemon in self.daemons}
        return [pid for pid in marked(self.state_dir) if pid not in daemons]


class Daemon:
    """A running `hostmanager serve`, with a channel to its socket."""

    def __init__(self, site: Site, flags: tuple[str, ...], program: Sequence[str | Path]) -> None:
        self.site = site
        self.log = site.folder / f"daemon{len(site.daemons)}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *program,
                    "serve",
                    site.file,
                    "--state-dir",
                    site.state_dir,
                    "--listen",
                    f"unix:{site.socket}",
                    *flags,
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=site.folder,
                env={"OCS_CONFIG_DIR": str(site.folder), **site.environ, "TEST_SITE": str(site.state_dir)},
            )
        self.channel = grpc.insecure_channel(f"unix:{site.socket}")
        self.stub = pb_grpc.HostManagerServiceStub(self.channel)

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_until_serving(self) -> None:
        def serving() -> bool:
            if self.process.poll() is not None:
                pytest.fail(f"the daemon ended:\n{self.log.read_text()}")
            try:
                status = self.stub.GetStatus(pb.GetStatusRequest(), timeout=5)
            except grpc.RpcError:
                return False
            return status.manager.state == pb.MANAGER_STATE_RUNNING and bool(
                status.manager.config_parse_status
            )

        wait_until(serving, "the daemon to serve")

    def instance(self, instance_id: str) -> pb.ManagedInstance:
        request = pb.GetInstanceRequest(instance_id=instance_id)
        return self.stub.GetInstance(request, timeout=20).instance

    def instances(self) -> dict[str, pb.ManagedInstance]:
        found: dict[str, pb.ManagedInstance] = {}
        token = ""
        while True:
            page = self.stub.ListInstances(pb.ListInstancesRequest(page_token=token), timeout=20)
            found.update({i.instance_id: i for i in page.instances})
            token = page.next_page_token
            if not token:
                return found

    def wait_for(
        self, instance_id: str, state: pb.NextAction.ValueType, timeout: float = TIMEOUT
    ) -> pb.ManagedInstance:
        def reached() -> pb.ManagedInstance | None:
            instance = self.instance(instance_id)
            return instance if instance.next_action == state else None

        name = pb.NextAction.Name(state)
        found = wait_until(reached, f"{instance_id} to be {name}", timeout)
        assert found is not None
        return found

    def wait_for_all(self, state: pb.NextAction.ValueType, timeout: float = TIMEOUT) -> None:
        def reached() -> bool:
            states = self.stub.GetStatus(pb.GetStatusRequest(), timeout=20).child_states
            return all(child.next_action == state for child in states)

        wait_until(reached, f"all to be {pb.NextAction.Name(state)}", timeout)

    def update(self, **targets: str) -> pb.UpdateResponse:
        """Set targets, in their order: update(all="up", data1="down")."""
        words = {"up": pb.TARGET_STATE_UP, "down": pb.TARGET_STATE_DOWN}
        changes = [
            pb.TargetChange(all=True, target_state=words[target])
            if instance_id == "all"
            else pb.TargetChange(instance_id=instance_id, target_state=words[target])
            for instance_id, target in targets.items()
        ]
        return self.stub.Update(pb.UpdateRequest(requests=changes), timeout=20)

    def reload(self) -> pb.UpdateResponse:
        return self.stub.Update(pb.UpdateRequest(reload_config=True), timeout=20)

    def events(self, instance_id: str = "") -> list[pb.Event]:
        """Return the events since the start of this daemon."""
        request = pb.ListEventsRequest(instance_ids=[instance_id] if instance_id else [], page_size=1000)
        events = self.stub.ListEvents(request, timeout=20).events
        return [event for event in events if event.revision]  # earlier daemons' have none

    def thread(self, name: str) -> Path:
        """Return the /proc folder of the daemon's thread of this name. Raises LookupError."""
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # threads end
                if (task / "comm").read_text().strip() == name[:15]:
                    return task
        raise LookupError(name)

    def end(self, signum: int = signal.SIGTERM) -> int:
        """Send the daemon a signal, and return the exit code of the daemon."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.channel.close()
