"""The installed unit, under a real systemd."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import yaml
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc

from tests.e2e.daemon import COMMAND
from tests.private_systemd import PrivateSystemd, private_systemd
from tests.waiting import wait_until

pytestmark = pytest.mark.xdist_group("systemd")  # one worker starts one systemd

# Its stop takes longer than the unit's stop timeout, unless the daemon extends the timeout.
SLOW = "trap 'sleep 2.5; exit 0' INT; while :; do sleep 0.1; done"
KERNEL = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
# It ends when its parent, the daemon, ends.
ORPHAN = 'while [ "$(cut -d" " -f4 /proc/$$/stat)" = "$PPID" ]; do sleep 0.05; done; exit 7'
NASTY = [
    "two words",
    'quo"te',
    "back\\slash",
    "50%",
    "$HOME",
    "${HOME}",
    "it's",
    ";",
    "tab\there",
    "ü\x01",
    "",
]


@dataclass
class InstalledUnit:
    """The started unit `hostmanager`, and a client of its daemon."""

    systemd: PrivateSystemd
    site: Path

    def __post_init__(self) -> None:
        self.channel = grpc.insecure_channel(
            f"unix:{self.systemd.outside('/run/hostmanager/hostmanager.sock')}"
        )
        self.stub = pb_grpc.HostManagerServiceStub(self.channel)

    def show(self, name: str) -> str:
        return self.systemd.show("hostmanager", name)

    def systemctl(self, *words: str) -> str:
        return self.systemd.run("systemctl", *words)

    def signal(self, signum: signal.Signals) -> None:
        self.systemctl("kill", "--kill-who=main", f"--signal={signum.name}", "hostmanager")

    def pids(self) -> dict[str, int]:
        """Return the pids of the agents that are up; empty while no daemon answers."""
        try:
            instances = self.stub.ListInstances(pb.ListInstancesRequest(), timeout=5).instances
        except grpc.RpcError:
            return {}
        return {i.instance_id: i.process.pid for i in instances if i.next_action == pb.NEXT_ACTION_UP}

    def instance(self, instance_id: str) -> pb.ManagedInstance:
        return self.stub.GetInstance(pb.GetInstanceRequest(instance_id=instance_id), timeout=20).instance

    def holds_all_pidfds(self) -> bool:
        """Return whether systemd holds one pidfd for each running agent, and no other."""
        found = []
        for info in Path(f"/proc/{self.systemd.pid}/fdinfo").iterdir():
            with suppress(FileNotFoundError):
                found += re.findall(r"^(?:NSpid:.*\s|Pid:\t)(-?\d+)$", info.read_text(), re.MULTILINE)[-1:]
        main_pid = self.show("MainPID")  # later versions of systemd hold a pidfd of the main process too
        return sorted(pid for pid in found if pid != main_pid) == sorted(map(str, self.pids().values()))

    def write(self, **scripts: str) -> None:
        agents = [
            {"instance-id": i, "agent-class": "Test", "command": ["sh", "-c", script]}
            for i, script in scripts.items()
        ]
        self.site.write_text(yaml.safe_dump({"hosts": {"localhost": {"agent-instances": agents}}}))


@pytest.fixture(scope="module")
def systemd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateSystemd]:
    with private_systemd(tmp_path_factory.mktemp("systemd")) as found:
        if isinstance(found, str):
            pytest.skip(found)
        yield found


@pytest.fixture
def installed(systemd: PrivateSystemd, tmp_path: Path) -> Iterator[InstalledUnit]:
    unit = InstalledUnit(systemd, tmp_path / "site.yaml")
    unit.write(a=SLOW, b=SLOW)
    options = ["--unit-dir", str(systemd.units), "--working-dir", str(tmp_path), "--force"]
    if "PYTHONPATH" in os.environ:  # so that systemd starts this code
        options += ["--env", "PYTHONPATH"]
    subprocess.run([COMMAND, "systemd", "install", unit.site, *options], check=True)
    settings = systemd.units / "hostmanager.service.d"
    settings.mkdir(exist_ok=True)
    (settings / "test.conf").write_text("[Service]\nWatchdogSec=15s\nTimeoutStopSec=1s\nRestartSec=100ms\n")
    unit.systemctl("daemon-reload")
    unit.systemctl("start", "hostmanager")  # returns when the daemon is ready
    yield unit
    unit.channel.close()
    unit.systemctl("stop", "hostmanager")


def test_agents_live_while_their_daemon_under_systemd_dies_freezes_and_upgrades(
    installed: InstalledUnit,
) -> None:
    wait_until(lambda: len(installed.pids()) == 2, "both agents to be up")
    wait_until(lambda: installed.show("StatusText") == "2 of 2 instances up", "the status")
    pids = installed.pids()
    groups = {installed.systemd.run("cat", f"/proc/{pid}/cgroup") for pid in pids.values()}
    assert len(groups) == 2
    # systemd delegated this cgroup to the daemon
    assert all("/hostmanager.service/agents-" in group for group in groups)

    _restart_by(installed, signal.SIGKILL, pids, restarts="1")
    _restart_by(installed, signal.SIGSTOP, pids, restarts="2")  # a frozen daemon sends no keepalive
    _upgrade(installed, pids)

    installed.write(a=SLOW, b=SLOW, orphan=ORPHAN)
    installed.systemctl("reload", "hostmanager")
    wait_until(lambda: len(installed.pids()) == 3, "the third to be up")
    assert installed.show("NRestarts") == "2"
    _crash_with_an_agent(installed)

    installed.systemctl("stop", "hostmanager")
    assert installed.show("Result") == "success"
    assert installed.show("ControlGroup") == ""


def _restart_by(
    installed: InstalledUnit, signum: signal.Signals, pids: dict[str, int], restarts: str
) -> None:
    installed.signal(signum)
    wait_until(lambda: installed.show("NRestarts") == restarts, f"the restart after {signum.name}")
    wait_until(lambda: installed.pids() == pids, "the agents to be back")


def _upgrade(installed: InstalledUnit, pids: dict[str, int]) -> None:
    main_pid, started = installed.show("MainPID"), installed.stub.GetStatus(pb.GetStatusRequest(), timeout=20)
    installed.signal(signal.SIGUSR2)

    def upgraded() -> bool:
        try:
            status = installed.stub.GetStatus(pb.GetStatusRequest(), timeout=5)
        except grpc.RpcError:
            return False
        return status.manager.epoch != started.manager.epoch

    wait_until(upgraded, "the upgrade")
    wait_until(lambda: installed.show("ActiveState") == "active", "the upgraded daemon to be ready")
    assert installed.show("MainPID") == main_pid
    assert installed.pids() == pids


def _crash_with_an_agent(installed: InstalledUnit) -> None:
    """Kill the daemon, with which the agent `orphan` ends; the next daemon gets its exit code."""
    wait_until(installed.holds_all_pidfds, "systemd to hold a pidfd of each agent")

    def ended_and_restarted() -> bool:
        return len(installed.pids()) == 3 and installed.instance("orphan").HasField("last_exit")

    installed.signal(signal.SIGKILL)
    wait_until(lambda: installed.show("NRestarts") == "3", "another restart")
    wait_until(ended_and_restarted, "all to be up")
    exit_code = 7 if KERNEL >= (6, 15) else 0  # older kernels lose the exit code
    assert installed.instance("orphan").last_exit.code == exit_code
    wait_until(installed.holds_all_pidfds, "systemd to hold only the pidfd of the new process")


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """Yield a folder that other users may enter, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_agents_of_root_s_unit_keep_the_rights_that_a_lab_needs(
    installed: InstalledUnit, public_folder: Path
) -> None:
    reports = public_folder
    reports.chmod(0o777)
    script = "grep -E 'CapBnd|NoNewPrivs' /proc/self/status >{0}.new && mv {0}.new {0}; exec sleep 100000"
    agents = [
        {"instance-id": name, "agent-class": "Test", "command": ["sh", "-c", script.format(reports / name)]}
        for name in ("own", "other")
    ]
    agents[1] |= {"user": "daemon", "working-dir": "/"}
    installed.site.write_text(yaml.safe_dump({"hosts": {"localhost": {"agent-instances": agents}}}))
    installed.systemctl("reload", "hostmanager")
    for name in ("own", "other"):
        wait_until((reports / name).exists, f"{name} to have reported its rights")
        status = dict(line.split(":\t") for line in (reports / name).read_text().splitlines())
        assert status["NoNewPrivs"] == "0"  # sudo still works
        rights = int(status["CapBnd"], 16)
        kept = {"SYS_TIME": 25, "SYS_NICE": 23, "SYS_RAWIO": 17, "NET_RAW": 13, "SYS_ADMIN": 21, "SETUID": 7}
        assert [right for right, bit in kept.items() if not rights >> bit & 1] == []
        lost = {"SYS_BOOT": 22, "SYS_MODULE": 16, "MAC_ADMIN": 33}
        assert [right for right, bit in lost.items() if rights >> bit & 1] == []


def test_systemd_passes_the_words_of_a_command_line_unchanged(
    systemd: PrivateSystemd, tmp_path: Path
) -> None:
    from hostmanager_server.commands.systemd.unit import argument, quoted

    output = tmp_path / "output"
    code = f"import json, os, sys; json.dump([sys.argv[1:], os.environ['X']], open({str(output)!r}, 'w'))"
    value = "".join(NASTY)
    (systemd.units / "words.service").write_text(
        f"[Service]\nType=oneshot\nEnvironment={quoted('X=' + value)}\n"
        f"ExecStart={sys.executable} {' '.join(map(argument, ['-c', code, *NASTY]))}\n"
    )
    systemd.run("systemctl", "daemon-reload")
    systemd.run("systemctl", "start", "words")
    assert json.loads(output.read_text()) == [NASTY, value]


VARIABLES = r"""
# a comment
; another
PLAIN=value
   BLANKS=  two words<
EMPTY=
EQUALS=a=b
DOLLARS=$HOME ${X} `id` %n
HASH=a#b
INNER=it"s 'so'
SINGLE=' # "no" \n $X '
DOUBLE=" # 'no' \" \\ \$ \` \n \x "
LINES="one
two"
RAW='one \
two'
JOINED="one\
two"
UMLAUT=ü€
LAST='quoted'<
"""


def test_systemd_and_the_daemon_read_the_same_variables_from_a_file(
    systemd: PrivateSystemd, tmp_path: Path
) -> None:
    from hostmanager_server.linux.env_format import parse_env

    file, output = tmp_path / "a.env", tmp_path / "output"
    text = VARIABLES.replace("<", " \t")
    ends = f"{text.partition('LINES')[0]}LAST='quoted'".replace("\n", "\r\n")
    for name, content, count in (("lf", text, 14), ("crlf", ends, 10)):
        file.write_bytes(content.encode())
        wanted = parse_env(content)
        assert len(wanted) == count
        code = f"import json, os; json.dump(dict(os.environ), open({str(output)!r}, 'w'))"
        (systemd.units / f"variables-{name}.service").write_text(
            f'[Service]\nType=oneshot\nEnvironmentFile={file}\nExecStart={sys.executable} -c "{code}"\n'
        )
        systemd.run("systemctl", "daemon-reload")
        systemd.run("systemctl", "start", f"variables-{name}")
        found = json.loads(output.read_text())
        assert {key: found.get(key) for key in wanted} == wanted
