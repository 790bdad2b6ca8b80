"""`hostmanager config check` against this machine."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hostmanager_client.cli.app import cli

HEAD = "hosts:\n  localhost:\n"


def check(folder: Path, text: str, *arguments: str) -> Result:
    file = folder / "site.yaml"
    file.write_text(text)
    file.chmod(0o600)
    given = ["config", "check", str(file), "--working-dir", str(folder), "--trust-config", *arguments]
    return CliRunner().invoke(cli, given, env={"OCS_CONFIG_DIR": ""})


def site(entry: str, host: str = "") -> str:
    return f"{HEAD}{host}    agent-instances:\n    - {{agent-class: A, instance-id: a, {entry}}}\n"


@pytest.mark.parametrize(
    ("entry", "value", "why"),
    [
        ("command: [no-such-agent]", "[no-such", "its program 'no-such-agent' is not found in PATH"),
        ("command: [./plain]", "[./", "/plain' is not executable"),
        ("command: [./script]", "[./", "its interpreter '/no/such/python' does not exist"),
        ("command: 'true', user: nobody-here", "nobody", "there is no user 'nobody-here' on this host"),
        ("command: 'true', group: nobody-here", "nobody", "there is no group 'nobody-here' on this host"),
        ("command: 'true', working-dir: gone", "gone", "/gone' does not exist; create it"),
        ("command: 'true', working-dir: script", "script", "/script' is no folder"),
        (
            "command: 'true', ready: {command: nothing}",
            "{command",
            "readiness command: its program 'nothing' is not",
        ),
        ("command: 'true', env: {PATH: /nowhere}", "'true'", "is not found in PATH (/nowhere)"),
    ],
)
def test_what_an_instance_lacks_here_is_named_with_its_place(
    tmp_path: Path, entry: str, value: str, why: str
) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/python\n")
    script.chmod(0o755)
    (tmp_path / "plain").touch(mode=0o644)
    column = site(entry).splitlines()[3].index(value) + 1
    noted = check(tmp_path, site(entry))
    assert noted.exit_code == 0, "a warning"
    assert f"site.yaml:4:{column}: warning: instance 'a' cannot start: " in noted.output
    assert why in noted.output
    failed = check(tmp_path, site(entry), "--here")
    assert failed.exit_code == 1
    assert ": error: instance 'a' cannot start: " in failed.output
    assert why not in check(tmp_path, site(entry), "--no-here").output


def test_the_place_of_a_class_s_key_is_in_the_class(tmp_path: Path) -> None:
    text = "agent-classes: {A: {user: nobody-here}}\n" + site("command: 'true'")
    assert "site.yaml:1:27: warning: instance 'a' cannot start" in check(tmp_path, text).output


def test_entries_of_other_hosts_are_not_for_this_machine(tmp_path: Path) -> None:
    text = site("command: 'true'") + "  elsewhere:\n    agent-instances:\n"
    text += "    - {agent-class: A, instance-id: b, command: no-such-agent}\n"
    assert "no-such-agent" not in check(tmp_path, text).output
    assert "no-such-agent" not in check(tmp_path, text, "--host", "elsewhere").output
    assert check(tmp_path, text, "--host", "elsewhere", "--here").exit_code == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_log_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    text = site("command: 'true'", "    log-dir: /proc/logs\n")
    assert "the log directory '/proc/logs' cannot be made" in check(tmp_path, text).output


def test_a_file_in_the_place_of_the_log_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("")
    output = check(tmp_path, site("command: 'true'", "    log-dir: logs/more\n")).output
    assert "site.yaml:3:14: warning: the log directory " in output
    assert f"cannot be made: '{tmp_path}/logs' is no directory" in output


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize("probe", ["tcp: '127.0.0.1:{port}'", "http: 'http://localhost:{port}/'"])
def test_a_port_of_a_probe_that_a_foreign_program_holds_is_named(
    tmp_path: Path, listener: int, probe: str
) -> None:
    text = site(f"command: 'true', ready: {{{probe.format(port=listener)}}}")
    output = check(tmp_path, text).output
    assert f"port {listener} of its probe is in use by " in output
    assert f"(pid {os.getpid()})" in output
    assert (
        f"site.yaml:4:{text.splitlines()[3].index('{tcp' if 'tcp' in probe else '{http') + 1}: warning"
        in output
    )


def test_a_port_that_the_running_agent_holds_is_fine(tmp_path: Path) -> None:
    code = (
        "import socket\ns = socket.create_server(('127.0.0.1', 0))\n"
        "print(s.getsockname()[1], flush=True)\ninput()"
    )
    agent = subprocess.Popen(
        ["python3", "-c", code],
        env={**os.environ, "HOSTMANAGER_INSTANCE_ID": "a"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert agent.stdout is not None
        port = int(agent.stdout.readline())
        text = site(f"command: 'true', ready: {{tcp: {port}}}")
        assert "in use" not in check(tmp_path, text).output
    finally:
        agent.kill()
        agent.communicate()


def test_agents_of_ocs_need_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hostmanager_server.config import launchers
    from hostmanager_server.config.ocs import OcsAgents

    monkeypatch.setattr(launchers, "ocs_agents", lambda: OcsAgents(frozenset({"A"})))
    without = check(
        tmp_path, f"{HEAD}    agent-instances:\n    - {{agent-class: A, instance-id: a}}\n"
    ).output
    assert "agents of OCS, such as 'a', need wamp_server, wamp_realm, address_root in 'hub'" in without
    hub = "hub: {wamp_server: 'ws://h', wamp_realm: r}\n"
    output = check(
        tmp_path, f"{hub}{HEAD}    agent-instances:\n    - {{agent-class: A, instance-id: a}}\n"
    ).output
    assert "site.yaml:1:1: warning: agents of OCS, such as 'a', need address_root in 'hub'" in output


def test_compose_files_of_other_hosts_are_checked_if_they_are_here(tmp_path: Path) -> None:
    (tmp_path / "here.yaml").write_text("services: [\n")
    text = site("command: 'true'")
    for name in ("here", "gone"):
        text += (
            f"  {name}:\n    agent-instances:\n"
            f"    - {{agent-class: HostManager, instance-id: hm-{name},"
            f" arguments: [--docker-compose, {name}.yaml]}}\n"
        )
    output = check(tmp_path, text).output
    assert f"{tmp_path}/here.yaml: " in output
    assert "gone.yaml" not in output
