"""Tests of the search for the compose program, and of its command lines."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hostmanager_server.drivers.compose.cli.program import ComposeError, ComposeProgram, find_program

V2 = ComposeProgram(("docker", "compose"), (2, 26, 1))
V1 = ComposeProgram(("/usr/bin/docker-compose",), (1, 29, 2))


def script(path: Path, commands: str) -> Path:
    path.write_text(f"#!/bin/sh\n{commands}\n")
    path.chmod(0o755)
    return path


def test_a_call_names_the_files_the_project_and_all_profiles() -> None:
    assert V2.command(("/a", "/b"), "lab", "up", "x", all_profiles=True) == [
        "docker", "compose", "-f", "/a", "-f", "/b", "-p", "lab", "--profile", "*", "up", "x"
    ]  # fmt: skip
    assert V1.command(("/a",), None, "config", all_profiles=True) == [
        "/usr/bin/docker-compose", "-f", "/a", "config"
    ]  # fmt: skip


def test_a_standalone_program_is_relative_to_the_working_directory(tmp_path: Path) -> None:
    script(tmp_path / "compose", "echo 2.27.0-desktop.1")
    found = find_program("compose", working_dir=tmp_path, environ={"PATH": "/bin"})
    assert (found.argv, found.version, found.legacy) == ((str(tmp_path / "compose"),), (2, 27, 0), False)


@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        ("echo v1.29.2", ""),
        ("echo hello", "its output: 'hello'"),
        ("echo broken >&2; exit 3", "its output: 'broken'"),
        ("true", "its output: 'nothing'"),
    ],
)
def test_the_error_for_another_program_quotes_its_output(
    tmp_path: Path, commands: str, expected: str
) -> None:
    script(tmp_path / "compose", commands)
    if not expected:
        assert find_program("compose", working_dir=tmp_path, environ={"PATH": "/bin"}).legacy
        return
    with pytest.raises(ComposeError, match=expected):
        find_program("compose", working_dir=tmp_path, environ={"PATH": "/bin"})


def test_the_error_for_a_missing_program_names_the_option(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    for option, expected in (("gone", "does not exist"), ("plain", "is not executable")):
        with pytest.raises(ComposeError, match=f"{expected}; correct --docker-compose-bin"):
            find_program(option, working_dir=tmp_path, environ={})


def test_the_plugin_comes_before_the_standalone_program_of_the_path(tmp_path: Path) -> None:
    script(tmp_path / "docker", '[ "$1" = compose ] && echo 2.26.1 || exit 1')
    script(tmp_path / "docker-compose", "echo 1.29.2")
    environ = {"PATH": f"{tmp_path}:/bin"}
    assert find_program("", working_dir=Path("/"), environ=environ).argv == (
        str(tmp_path / "docker"),
        "compose",
    )
    script(tmp_path / "docker", "echo \"docker: 'compose' is not a docker command.\" >&2; exit 1")
    assert find_program("", working_dir=Path("/"), environ=environ).legacy
    os.unlink(tmp_path / "docker")
    os.unlink(tmp_path / "docker-compose")
    with pytest.raises(ComposeError, match=r"no program 'docker' on the PATH.*install Docker Compose"):
        find_program("", working_dir=Path("/"), environ={"PATH": str(tmp_path)})


@pytest.mark.skipif(shutil.which("docker") is None, reason="no docker command")
def test_the_installed_compose_is_found(engine: object) -> None:
    assert find_program("", working_dir=Path("/"), environ=os.environ).version >= (1, 25)
