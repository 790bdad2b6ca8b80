"""Make targets, and the environments that each target sets up."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGETS = (
    "help", "demo", "test", "test-long", "test-lowest", "test-newest", "test-newest-engine", "test-podman",
    "lock", "torture", "soak", "engine", "check", "fmt", "proto", "docs", "bench",
)  # fmt: skip
SETUPS = {
    "demo": ["run"],
    "test": ["dev", "generators"],
    "test-long": ["dev"],
    "test-lowest": ["lowest"],
    "test-newest": ["generators", "newest"],
    "test-newest-engine": ["dev"],
    "test-podman": ["dev"],
    "lock": ["lock"],
    "torture": ["dev"],
    "soak": ["dev"],
    "check": ["dev", "generators"],
    "proto": ["dev", "generators"],
    "docs": ["docs"],
    "bench": ["bench"],
    "fmt": ["dev"],
}


def run(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    of_an_outer_make = ("MAKE", "MFLAGS", "RUN_AS", "SEED")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(of_an_outer_make)}
    return subprocess.run(
        command,
        cwd=ROOT,
        env=kept | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def fake(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_make_alone_lists_the_targets() -> None:
    done = run(["make"])
    assert done.returncode == 0
    assert tuple(re.findall(r"^ +make (\S+)", done.stdout, re.MULTILINE)) == TARGETS


@pytest.mark.parametrize("target", SETUPS)
def test_each_target_sets_up_what_it_needs(target: str, tmp_path: Path) -> None:
    done = run(["make", "--dry-run", target, f"VENV={tmp_path / 'venv'}"])
    assert done.returncode == 0
    assert re.findall(r"^scripts/setup-venv (\S+)$", done.stdout, re.MULTILINE) == SETUPS[target]


def test_the_newest_versions_run_the_core_unless_other_tests_are_chosen(tmp_path: Path) -> None:
    command = ["make", "--dry-run", "test-newest", f"VENV={tmp_path}"]
    for chosen, expected in (([], "tests/rpc tests/client"), (["TESTS=tests/state"], " tests/state")):
        (line,) = (line for line in run([*command, *chosen]).stdout.splitlines() if "-m pytest" in line)
        assert expected in line
    (line,) = (line for line in run([*command, "TESTS="]).stdout.splitlines() if "-m pytest" in line)
    assert "tests/" not in line


def test_nothing_is_set_up_twice(tmp_path: Path) -> None:
    for stamp in (
        ".installed",
        ".installed-dev",
        ".installed-bench",
        ".installed-docs",
        "generators/.installed",
        "lowest/.installed",
    ):
        (tmp_path / stamp).parent.mkdir(exist_ok=True)
        (tmp_path / stamp).touch()
    for target in ("demo", "test", "check", "docs", "bench", "test-lowest"):
        done = run(["make", "--dry-run", target, f"VENV={tmp_path}"])
        assert "setup-venv" not in done.stdout


def test_an_unknown_environment_is_refused_with_the_known_ones() -> None:
    done = run(["scripts/setup-venv", "everything"])
    assert done.returncode == 2
    assert "usage: scripts/setup-venv run|dev|" in done.stdout


def test_without_generators_the_message_names_the_command_to_install_them(tmp_path: Path) -> None:
    done = run(["scripts/generate-stubs", str(tmp_path)], GENERATORS=str(tmp_path / "gone"))
    assert done.returncode == 1
    assert "scripts/setup-venv generators" in done.stdout


def test_an_old_python_is_refused_with_the_packages_to_install(tmp_path: Path) -> None:
    old = fake(tmp_path / "python", "exit 1")
    done = run(["scripts/setup-venv", "run"], VENV=str(tmp_path / "venv"), PYTHON=str(old))
    assert done.returncode != 0
    assert "no Python 3.11 or newer" in done.stdout
    assert "apt-get install python3 python3-venv" in done.stdout


def test_a_python_without_ensurepip_names_the_package_to_install(tmp_path: Path) -> None:
    bare = fake(
        tmp_path / "python", f'case "$2" in "import ensurepip"*) exit 1;; esac; exec {sys.executable} "$@"'
    )
    tools = tmp_path / "tools"
    tools.mkdir()
    fake(tools / "id", "echo 1000")  # an ordinary user, who may install nothing
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    done = run(
        ["scripts/setup-venv", "run"],
        VENV=str(tmp_path / "venv"),
        PYTHON=str(bare),
        PATH=f"{tools}:{os.environ['PATH']}",
    )
    assert done.returncode != 0
    assert f"apt-get install python{version}-venv" in done.stdout


@pytest.mark.parametrize("target", ["torture", "soak"])
def test_the_referee_runs_as_the_calling_user_by_default(target: str, tmp_path: Path) -> None:
    (tmp_path / ".installed-dev").touch()
    command = ["make", "--dry-run", target, f"VENV={tmp_path}"]
    plain = run(command)
    assert plain.returncode == 0
    assert "tests.referee" in plain.stdout
    assert "--user" not in plain.stdout
    assert "--seed" not in plain.stdout
    chosen = run([*command, "RUN_AS=nobody", "SEED=7"])
    assert "--user nobody" in chosen.stdout
    assert "--seed 7" in chosen.stdout


def test_no_variable_of_the_makefile_is_predefined_by_make() -> None:
    """`NAME ?= value` has no effect where make predefines NAME, such as AS or CC."""
    ours = set(re.findall(r"^(\w+) *\?=", (ROOT / "Makefile").read_text(), re.MULTILINE))
    database = run(["make", "--print-data-base", "--dry-run", "--makefile", os.devnull]).stdout
    predefined = set(re.findall(r"^# default\n(\w+) ", database, re.MULTILINE))
    assert {"AS", "CC"} <= predefined
    assert "RUN_AS" in ours
    assert not ours & predefined


def test_ci_runs_the_commands_of_the_pages_and_no_others() -> None:
    script = (ROOT / ".ci/run").read_text()
    commands = re.findall(r"^make .*$", script, re.MULTILINE)
    assert commands == ["make check", "make docs", "make test", "make test-lowest"]
    assert set(commands[:3]) <= set(re.findall(r"make [a-z]+", (ROOT / "README.md").read_text()))
    assert set(commands) <= set(re.findall(r"make [a-z-]+", (ROOT / "CONTRIBUTING.md").read_text()))
