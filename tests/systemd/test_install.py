"""The command `hostmanager systemd install`, run through the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hostmanager_client.cli.app import cli
from hostmanager_server.commands.systemd.install import systemd_command

from tests.systemd.test_unit import split

ROOT = Path(__file__).resolve().parents[2]
GOOD = (
    "hosts:\n  lab1:\n    agent-instances:\n    - {agent-class: A, instance-id: a, command: [sleep, '9']}\n"
)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    file = tmp_path / "my site.yaml"
    file.write_text(GOOD)
    file.chmod(0o600)
    return file


def install(*arguments: str | Path, **environ: str) -> Result:
    command = ["systemd", "install", *map(str, arguments)]
    return CliRunner().invoke(cli, command, env={"OCS_CONFIG_DIR": "", **environ})


def settings(text: str, name: str) -> list[str]:
    return [value for key, _, value in (line.partition("=") for line in text.splitlines()) if key == name]


def test_the_unit_serves_the_host_with_the_running_program(site: Path, tmp_path: Path) -> None:
    result = install(site, "--host", "lab1", "--working-dir", tmp_path, "--print")
    assert result.exit_code == 0
    (line,) = settings(result.stdout, "ExecStart")
    program, *arguments = split(line)
    assert program == str(Path(sys.executable).with_name("hostmanager"))
    assert arguments == [
        "serve", str(site), "--host", "lab1", "--working-dir", str(tmp_path),
        "--state-dir", "/var/lib/hostmanager", "--listen", "unix:/run/hostmanager/hostmanager.sock",
    ]  # fmt: skip
    assert settings(result.stdout, "Environment") == [f"OCS_CONFIG_DIR={tmp_path}"]


def test_options_of_serve_are_passed_on_and_checked(site: Path) -> None:
    result = install(site, "--host", "lab1", "--print", "--listen", "localhost:5555", "--", "--insecure")
    assert result.exit_code == 0
    assert "--listen localhost:5555 --insecure" in result.stdout
    assert "RuntimeDirectory" not in result.stdout
    without = install(site, "--host", "lab1", "--print", "--listen", "localhost:5555")
    assert without.exit_code == 1
    assert "--insecure" in without.stderr
    unknown = install(site, "--host", "lab1", "--print", "--", "--no-such-option")
    assert unknown.exit_code == 2


def test_a_variable_without_value_gets_its_present_value(site: Path) -> None:
    result = install(site, "--host", "lab1", "--print", "--env", "X=a b", "--env", "Y", Y="50%")
    lines = settings(result.stdout, "Environment")
    assert lines[1:] == ['"X=a b"', "Y=50%%"]
    assert install(site, "--host", "lab1", "--print", "--env", "UNSET_HERE").exit_code == 2


def test_errors_of_the_site_config_are_printed_like_those_of_a_compiler(site: Path, tmp_path: Path) -> None:
    site.write_text(GOOD.replace("agent-class: A", "agent-class: A, manage: hots"))
    result = install(site, "--host", "lab1", "--unit-dir", tmp_path / "units")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"{site}:4:")
    assert "error: 'manage'" in result.stderr
    assert not (tmp_path / "units").exists()


@pytest.mark.parametrize("hosts", [GOOD, GOOD.replace("lab1", "localhost")])
def test_a_host_that_is_not_in_the_file_is_refused(site: Path, hosts: str) -> None:
    site.write_text(hosts)
    result = install(site, "--host", "lab2", "--print")
    assert result.exit_code == 1
    assert "no host 'lab2'" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--program", "/nowhere/hostmanager"], "/nowhere/hostmanager is no program"),
        (["--as-user", "nobody-of-that-name"], "there is no user 'nobody-of-that-name'"),
        (["--unit-name", "a/b"], "'a/b' is no name for a unit"),
    ],
)
def test_a_unit_that_systemd_could_not_run_is_refused(site: Path, options: list[str], message: str) -> None:
    result = install(site, "--host", "lab1", "--print", *options)
    assert result.exit_code == 1
    assert message in result.stderr


def test_a_unit_that_differs_is_overwritten_only_with_force(site: Path, tmp_path: Path) -> None:
    units = tmp_path / "units"
    first = install(site, "--host", "lab1", "--unit-dir", units)
    assert first.exit_code == 0
    assert "systemctl enable --now hostmanager" in first.stdout
    again = install(site, "--host", "lab1", "--unit-dir", units)
    assert again.exit_code == 0
    assert "up to date" in again.stdout
    file = units / "hostmanager.service"
    file.write_text(file.read_text().replace("RestartSec=1s", "RestartSec=9s"))
    refused = install(site, "--host", "lab1", "--unit-dir", units)
    assert refused.exit_code == 1
    assert "-RestartSec=9s\n+RestartSec=1s" in refused.stderr
    assert "RestartSec=9s" in file.read_text()
    assert install(site, "--host", "lab1", "--unit-dir", units, "--force").exit_code == 0
    assert "RestartSec=1s" in file.read_text()
    assert [entry.name for entry in units.iterdir()] == ["hostmanager.service"]


def test_another_unit_name_gives_a_separate_daemon(site: Path) -> None:
    result = install(site, "--host", "lab1", "--unit-name", "second.service", "--print", "--json")
    answer = json.loads(result.stdout)
    assert answer["unit"] == "second.service"
    assert answer["changed"] is False
    assert "--state-dir /var/lib/second --listen unix:/run/second/hostmanager.sock" in answer["text"]
    assert settings(answer["text"], "RuntimeDirectory") == ["second"]
    assert answer["next"][-1].startswith("export HOSTMANAGER_ADDRESS=unix:/run/second/hostmanager.sock")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_without_the_right_to_write_the_error_names_a_remedy(site: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        public = Path(shutil.copy(site, folder))
        public.chmod(0o644)
        assert (
            install(public, "--host", "lab1", "--print").exit_code == 0
        )  # imports all modules before the change of user
        os.seteuid(65534)
        try:
            # Not `hostmanager` itself, which looks for its commands in files that perhaps only root may read.
            words = ["install", str(public), "--host", "lab1", "--working-dir", "/", "--program", "/bin/sh"]
            result = CliRunner().invoke(systemd_command, words)
        finally:
            os.seteuid(0)
    assert result.exit_code == 6
    assert "cannot write /etc/systemd/system/hostmanager.service: Permission denied" in result.stderr
    assert "--user-unit" in result.stderr


@pytest.mark.parametrize("options", [[], ["--user-unit"], ["--as-user", "daemon"]])
def test_systemd_accepts_the_unit(site: Path, tmp_path: Path, options: list[str]) -> None:
    if shutil.which("systemd-analyze") is None:
        reason = "no systemd-analyze; run scripts/setup-systemd as root, or install the package systemd"
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must have what this test needs: {reason}", pytrace=False)
        pytest.skip(reason)
    name = "hostmanager-under-test"
    units = tmp_path / "units"
    nasty = 'it\'s "50%" of $HOME \\'
    environ = ["--env", f"X={nasty}"]
    result = install(site, "--host", "lab1", "--unit-name", name, "--unit-dir", units, *environ, *options)
    assert result.exit_code == 0, result.stderr
    manager = "--user" if "--user-unit" in options else "--system"
    command = ["systemd-analyze", manager, "--man=no", "verify", str(units / f"{name}.service")]
    environment = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert [line for line in done.stderr.splitlines() if name in line] == []
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="a warning, for a unit that only root can install")
def test_a_site_config_that_others_may_write_needs_to_be_trusted(site: Path) -> None:
    site.chmod(0o666)
    refused = install(site, "--host", "lab1", "--print")
    assert refused.exit_code == 1
    assert "may be written by others (mode 0666)" in refused.stderr
    assert "--trust-config" in refused.stderr
    for arguments in (("--trust-config",), ("--", "--trust-config")):
        result = install(site, "--host", "lab1", "--print", *arguments)
        assert result.exit_code == 0, result.stderr
        (line,) = settings(result.stdout, "ExecStart")
        assert split(line).count("--trust-config") == 1
        assert "--trust-config allows it" in result.stderr
    own = install(site, "--host", "lab1", "--print", "--as-user", "nobody")
    assert own.exit_code == 0, "for the daemon of a plain user it is a warning"
    assert "may be written by others" in own.stderr
