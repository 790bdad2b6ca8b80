"""`hostmanager config check`, as it is run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hostmanager_client.cli.app import cli

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


def test_the_output_is_that_of_a_compiler_and_the_code_is_1(bad: Path) -> None:
    result = run("config", "check", str(bad))
    lines = result.stdout.splitlines()
    assert result.exit_code == 1
    assert lines[0].startswith(f"{bad}:3:5: warning: unknown key 'logdir'")
    assert lines[1].startswith(f"{bad}:5:48: error: 'manage' of instance 'a' is 'hots'")
    assert lines[2:] == [f"{bad}: cannot be used: 1 error, 1 warning"]


def test_a_good_file_is_summed_up_and_the_code_is_0() -> None:
    result = run("config", "check", str(ROOT / "examples" / "site.yaml"), "--host", "localhost")
    assert result.exit_code == 0
    assert "good: host localhost has 8 managed instances" in result.stdout


@pytest.mark.parametrize("before", [True, False])
def test_json_may_stand_on_either_side(bad: Path, before: bool) -> None:
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


def test_a_reader_that_leaves_is_not_an_error_worth_words(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text("".join(f"key{n}: {n}\n" for n in range(1000)))
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from hostmanager_client.cli import main; main()",
            "config",
            "check",
            str(file),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
