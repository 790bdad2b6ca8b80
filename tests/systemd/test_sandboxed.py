"""A daemon other than root under a real systemd, ordinary and hardened."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import yaml
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc

from tests.e2e.daemon import COMMAND
from tests.private_systemd import PrivateSystemd, private_systemd
from tests.referee.switch_user import interpreter_for
from tests.waiting import wait_until

pytestmark = pytest.mark.xdist_group("systemd")

USER = "daemon"
ROOT = Path(__file__).resolve().parents[2]
CHECKOUT = "/run/checkout"
# The agent prints one word for each right that it has or lacks.
PROBE = """
grep NoNewPrivs /proc/self/status
( : >/run/public/out/file ) 2>/dev/null && echo out-writable || echo out-closed
( : >{closed}/file ) 2>/dev/null && echo other-writable || echo other-closed
( : >/tmp/hm-probe-$$ && rm /tmp/hm-probe-$$ ) 2>/dev/null && echo tmp-writable || echo tmp-closed
{python} -c '
import socket
s = socket.socket(socket.AF_UNIX)
s.connect("/run/public/engine.sock")
print("socket-reached")
'
echo done
exec sleep 100000
"""


@dataclass
class UserDaemon:
    """The started unit `hostmanager` of a user other than root."""

    systemd: PrivateSystemd
    stub: pb_grpc.HostManagerServiceStub

    def show(self, name: str) -> str:
        return self.systemd.show("hostmanager", name)

    def pids(self) -> dict[str, int]:
        """Return the pids of the agents that are up; empty while no daemon answers."""
        try:
            instances = self.stub.ListInstances(pb.ListInstancesRequest(), timeout=5).instances
        except grpc.RpcError:
            return {}
        return {i.instance_id: i.process.pid for i in instances if i.next_action == pb.NEXT_ACTION_UP}

    def epoch(self) -> str:
        try:
            return self.stub.GetStatus(pb.GetStatusRequest(), timeout=5).manager.epoch
        except grpc.RpcError:
            return ""

    def output(self) -> str:
        log = self.systemd.outside("/var/lib/hostmanager/logs")
        return "".join(file.read_text() for file in log.glob("*.log"))


@pytest.fixture(scope="module")
def systemd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateSystemd]:
    with private_systemd(tmp_path_factory.mktemp("systemd")) as found:
        if isinstance(found, str):
            pytest.skip(found)
        yield found


@pytest.fixture(scope="module")
def python() -> str:
    try:
        return interpreter_for(USER)
    except LookupError as error:
        pytest.skip(str(error))


@pytest.fixture
def start(systemd: PrivateSystemd, python: str) -> Callable[..., AbstractContextManager[UserDaemon]]:
    """Return a context manager that installs and starts the unit."""

    @contextmanager
    def start(*options: str) -> Iterator[UserDaemon]:
        with tempfile.TemporaryDirectory() as folder:
            public = Path(folder)
            public.chmod(0o755)
            # All users may enter this folder, which has the checkout and all other files of the test.
            systemd.run("mkdir", "-p", CHECKOUT, "/run/public/out", "/var/lib/closed")
            systemd.run("chown", USER, "/run/public/out", "/var/lib/closed")
            systemd.run("mount", "--bind", str(ROOT), CHECKOUT)
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(systemd.outside("/run/public/engine.sock")))
            listener.listen()
            os.chmod(systemd.outside("/run/public/engine.sock"), 0o666)
            program = _program(public, python)
            script = PROBE.format(python=python, closed="/var/lib/closed")
            agent = {"instance-id": "a", "agent-class": "T", "command": ["sh", "-c", script]}
            site = public / "site.yaml"
            site.write_text(yaml.safe_dump({"hosts": {"localhost": {"agent-instances": [agent]}}}))
            subprocess.run(
                [COMMAND, "systemd", "install", site, "--force", "--as-user", USER, "--program", program,
                 "--working-dir", "/", "--unit-dir", systemd.units, "--env", f"PYTHONPATH={_paths()}",
                 *options],
                check=True,
            )  # fmt: skip
            systemd.run("systemctl", "daemon-reload")
            systemd.run("systemctl", "start", "hostmanager")
            address = f"unix:{systemd.outside('/run/hostmanager/hostmanager.sock')}"
            with grpc.insecure_channel(address) as channel, listener:
                yield UserDaemon(systemd, pb_grpc.HostManagerServiceStub(channel))
            systemd.run("systemctl", "stop", "hostmanager")
            systemd.run("rm", "-rf", "/run/public", "/var/lib/hostmanager", "/var/lib/closed")
            systemd.run("umount", CHECKOUT)

    return start


def _paths() -> str:
    """Return the module search path, as processes inside the namespaces see it."""
    return os.pathsep.join(
        path.replace(str(ROOT), CHECKOUT, 1) if Path(path).is_relative_to(ROOT) else path
        for path in map(os.path.abspath, filter(None, sys.path))
    )


def _program(folder: Path, python: str) -> Path:
    program = folder / "hostmanager"
    code = "from hostmanager_client.cli import main; main()"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(python)} -P -c {shlex.quote(code)} "$@"\n')
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ([], ["NoNewPrivs:\t0", "out-writable", "other-writable"]),
        (
            ["--hardened", "--writable", "/run/public/out"],
            ["NoNewPrivs:\t1", "out-writable", "other-closed"],
        ),
    ],
    ids=["ordinary", "hardened"],
)
def test_agents_start_survive_crashes_and_upgrades_and_stop(
    start: Callable[..., AbstractContextManager[UserDaemon]], options: list[str], found: list[str]
) -> None:
    with start(*options) as daemon:
        wait_until(lambda: len(daemon.pids()) == 1, "the agent to be up")
        wait_until(lambda: "done\n" in daemon.output(), "the agent to have reported its rights")
        assert daemon.output().splitlines() == [*found, "tmp-writable", "socket-reached", "done"]
        pids = daemon.pids()
        group = daemon.systemd.run("cat", f"/proc/{pids['a']}/cgroup")
        assert "/hostmanager.service/agents-" in group

        epoch, main_pid = daemon.epoch(), daemon.show("MainPID")
        daemon.systemd.run("systemctl", "kill", "--kill-who=main", "--signal=USR2", "hostmanager")
        wait_until(lambda: daemon.epoch() not in ("", epoch), "the upgrade")
        assert daemon.show("MainPID") == main_pid
        assert daemon.pids() == pids

        daemon.systemd.run("systemctl", "kill", "--kill-who=main", "--signal=KILL", "hostmanager")
        wait_until(lambda: daemon.show("NRestarts") == "1", "the restart after a death")
        wait_until(lambda: daemon.pids() == pids, "the agent to be back")
        daemon.stub.Update(
            pb.UpdateRequest(requests=[pb.TargetChange(all=True, target_state=pb.TARGET_STATE_DOWN)]),
            timeout=20,
        )
        wait_until(lambda: daemon.pids() == {}, "the agent to be down")

        daemon.systemd.run("systemctl", "stop", "hostmanager")
        assert daemon.show("Result") == "success"
        assert daemon.show("ControlGroup") == ""
