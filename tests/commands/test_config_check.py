"""The command `hostmanager config check`, run through the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hostmanager_client.cli.app import cli

from tests.docker_engine import RealEngine

MAIN = "from hostmanager_client.cli import main; main()"
ROOT = Path(__file__).resolve().parents[2]
BAD = (
    "hosts:\n  localhost:\n    logdir: x\n    agent-instances:\n"
    "    - {agent-class: A, instance-id: a, manage: hots}\n"
)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), env={"OCS_CONFIG_DIR": ""})


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    file = tmp_path / "site.yaml"
    file.write_text(BAD)
    file.chmod(0o600)
    return file


def test_errors_are_printed_like_those_of_a_compiler_with_exit_code_1(bad: Path) -> None:
    result = run("config", "check", str(bad))
    lines = result.stdout.splitlines()
    assert result.exit_code == 1
    assert lines[0].startswith(f"{bad}:3:5: warning: unknown key 'logdir'")
    assert lines[1].startswith(f"{bad}:5:48: error: 'manage' of instance 'a' is 'hots'")
    assert lines[2:] == [f"{bad}: cannot be used: 1 error, 1 warning"]


def test_all_of_many_errors_are_listed(bad: Path) -> None:
    entries = "".join(f"    - {{agent-class: A, instance-id: a{n}, manage: hots}}\n" for n in range(500))
    bad.write_text(BAD + entries)
    result = run("config", "check", str(bad))
    assert result.stdout.count("is 'hots'") == 501
    assert result.stdout.splitlines()[-1] == f"{bad}: cannot be used: 501 errors, 1 warning"


def test_a_good_file_gives_a_summary_and_exit_code_0() -> None:
    result = run("config", "check", str(ROOT / "examples" / "site.yaml"), "--host", "localhost")
    assert result.exit_code == 0
    assert "good: host localhost has 8 managed instances" in result.stdout


@pytest.mark.parametrize("before", [True, False])
def test_json_may_stand_before_or_after_the_command(bad: Path, *, before: bool) -> None:
    arguments = ["config", "check", str(bad)]
    result = run(*(["--json", *arguments] if before else [*arguments, "--json"]))
    answer = json.loads(result.stdout)
    assert result.exit_code == 1
    assert answer["success"] is False
    assert [(p["severity"], p["line"], p["column"]) for p in answer["problems"]] == [
        ("warning", 3, 5),
        ("error", 5, 48),
    ]


def test_no_file_and_an_unknown_option_are_wrong_usage() -> None:
    assert run("config", "check").exit_code == 2
    assert run("config", "check", "--nope").exit_code == 2


def test_a_reader_that_closes_the_pipe_causes_no_message(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text("".join(f"key{n}: {n}\n" for n in range(1000)))
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", "from hostmanager_client.cli import main; main()", "config", "check"]
    ended = subprocess.run([*command, file], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")


COMPOSED = """
hosts:
  localhost:
    agent-instances:
      - {agent-class: HostManager, instance-id: hm, arguments: [--docker-compose, "good.yaml,%s"]}
      - {agent-class: Camera, instance-id: dome, manage: docker}
      - {agent-class: Camera, instance-id: guide, manage: docker}
  elsewhere:
    agent-instances:
      - {agent-class: Camera, instance-id: guide, manage: docker}
"""


@pytest.fixture
def composed(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes a site config and two compose files.

    The first compose file is good; the argument is the text of the second.
    """

    def make(other: str) -> Path:
        (tmp_path / "good.yaml").write_text("services: {ocs-dome: {image: a}, web: {image: b}}")
        (tmp_path / "other.yaml").write_text(other)
        site = tmp_path / "site.yaml"
        site.write_text(COMPOSED % "other.yaml")
        site.chmod(0o600)
        return site

    return make


def check(site: Path, *arguments: str) -> Result:
    return run("config", "check", str(site), "--working-dir", str(site.parent), *arguments)


def test_compose_files_are_read_and_instances_that_have_no_service_in_them_are_named(
    composed: Callable[[str], Path], engine: RealEngine
) -> None:
    site = composed("services: {db: {image: c}}\nname: data")
    result = check(site)
    assert result.exit_code == 0
    files = f"{site.parent}/good.yaml, {site.parent}/other.yaml"
    (warning,) = (line for line in result.stdout.splitlines() if line.startswith(f"{site}: warning"))
    assert f"instance 'guide' cannot start: no service 'ocs-guide' in {files}" in warning
    hosts = (
        "host localhost has 2 managed instances, 1 of which cannot start, and observes 2 compose services",
        "host elsewhere has 1 managed instance; 0 errors, 1 warning",
    )
    assert "; ".join(hosts) in result.stdout
    assert f"{site.parent}/other.yaml: good: project data has 1 service; 0 errors" in result.stdout
    answer = json.loads(check(site, "--json").stdout)
    instances = {one["instance_id"]: one for one in answer["hosts"]["localhost"]}
    assert instances["dome"]["service"]["image"] == "a"
    assert not instances["guide"]["operable"]
    assert answer["hosts"]["elsewhere"][0]["operable"], "its compose files are on another machine"
    assert [project["services"] for project in answer["compose_projects"]] == [["ocs-dome", "web"], ["db"]]


def test_variables_of_compose_files_are_those_of_the_daemon_and_missing_ones_are_named(
    composed: Callable[[str], Path], engine: RealEngine
) -> None:
    site = composed(
        "services:\n  db: {image: 'c${OCS_CONFIG_DIR:?as the daemon}'}\n  x: {image: 'x$NOT_SET'}\n"
    )
    result = check(site)
    assert result.exit_code == 0
    other = site.parent / "other.yaml"
    assert f"{other}:3:16: warning: the variable NOT_SET is not set" in result.stdout
    other.write_text("services:\n  db: {image: 'c${NOT_SET?}'}\n")
    result = check(site)
    assert result.exit_code == 1
    assert f"{other}:2:17: error: " in result.stdout
    assert f"set NOT_SET in {site.parent}/.env" in result.stdout


def test_an_unusable_compose_file_is_listed_with_exit_code_1(
    composed: Callable[[str], Path], engine: RealEngine
) -> None:
    site = composed("services: {db: {image: c, prots: []}}")
    result = check(site)
    assert result.exit_code == 1
    assert f"{site.parent}/other.yaml: error: " in result.stdout
    assert "prots" in result.stdout
    assert f"{site.parent}/other.yaml: cannot be used: 1 error, 0 warnings" in result.stdout
    assert check(site, "--no-compose").exit_code == 0
    assert check(site, "--host", "elsewhere", "--no-compose").exit_code == 0


def test_without_a_compose_program_all_other_files_are_checked(
    composed: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site = composed("services: {}")
    monkeypatch.setenv("PATH", str(tmp_path))
    result = check(site)
    assert result.exit_code == 0
    assert f"{site.parent}/good.yaml: warning: not read: cannot find Docker Compose" in result.stdout
    assert f"{site.parent}/good.yaml: not read: 0 errors, 1 warning" in result.stdout
    assert "good: host localhost has 2 managed instances; host elsewhere" in result.stdout


def test_values_like_secrets_are_masked_in_json(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(
        "hosts:\n  localhost:\n    agent-instances:\n    - {agent-class: A, instance-id: a, command: [a],\n"
        "       env: {API_TOKEN: s3cr3t, TZ: UTC}, env-file: -a.env, env-inherit: [X]}\n"
    )
    result = run("config", "check", "--json", str(file), "--host", "localhost")
    assert "s3cr3t" not in result.output
    (instance,) = json.loads(result.stdout)["hosts"]["localhost"]
    assert instance["env"] == {"API_TOKEN": "***", "TZ": "UTC"}
    assert instance["env_files"] == [str(tmp_path / "a.env")]
    assert instance["env_inherit"] == ["X"]


@pytest.mark.skipif(os.geteuid() != 0, reason="a warning for a plain user")
def test_a_file_that_others_may_write_is_checked_as_the_daemon_does(bad: Path) -> None:
    bad.write_text("hosts: {localhost: {agent-instances: []}}\n")
    bad.chmod(0o666)
    refused = run("config", "check", str(bad))
    assert refused.exit_code == 1
    assert "or --trust-config" in refused.stdout
    trusted = run("config", "check", "--trust-config", str(bad))
    assert trusted.exit_code == 0
    assert "warning: others may choose what the daemon runs" in trusted.stdout
