"""Shell completion of ids, classes and labels, and of words at which bash splits."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hostmanager_client.cli.app import cli

from tests.client.cli_runner import make_runner
from tests.client.fake_daemon import FakeDaemon

DEFAULT_BREAKS = " \t\n\"'><=;|&(:"


@pytest.fixture
def lab(daemon: FakeDaemon, socket: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDaemon:
    monkeypatch.setenv("HOSTMANAGER_ADDRESS", str(socket))
    daemon.add("cam1", full_name="Camera:cam1", labels={"rack": "3"})
    daemon.add("cam[2]", full_name="Camera:cam[2]", labels={"cold": ""})
    daemon.add("thermo1", full_name="Thermo:thermo1", labels={"rack": "4"})
    return daemon


def complete(monkeypatch: pytest.MonkeyPatch, line: str, breaks: str = DEFAULT_BREAKS) -> list[str]:
    """Return the completions at the end of a line."""
    monkeypatch.setenv("_HOSTMANAGER_COMPLETE", "bash_complete")
    monkeypatch.setenv("HOSTMANAGER_COMP_LINE", line)
    monkeypatch.setenv("HOSTMANAGER_COMP_WORDBREAKS", breaks)
    result = make_runner().invoke(cli, [], prog_name="hostmanager", catch_exceptions=False)
    return [text.partition(",")[2] for text in result.stdout.splitlines() if text]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("hostmanager up ", ["cam1", "thermo1"]),
        ("hostmanager up cam1 th", ["thermo1"]),
        ("hostmanager up c", ["cam1", "class:Camera", "class:Thermo"]),
        ("hostmanager up class:", ["Camera", "Thermo"]),
        ("hostmanager up class:Ca", ["Camera"]),
        ("hostmanager restart label:r", ["rack", "rack=3", "rack=4"]),
        ("hostmanager status @", ["@cold", "@rack", "@rack=3", "@rack=4"]),
        ("hostmanager status @rack=", ["3", "4"]),
        ("hostmanager update cam1=", ["up", "down"]),
        ("hostmanager update cam1=d", ["down"]),
        ("hostmanager update al", ["all=up", "all=down"]),
        ("hostmanager update class:Th", ["Thermo=up", "Thermo=down"]),
        ("hostmanager update class:Thermo=u", ["up"]),
        ("hostmanager --timeout=5 sho", ["show"]),
        ("hostmanager --timeout=5 show th", ["thermo1"]),
        ("hostmanager up --timeout=5 --wait th", ["thermo1"]),
        ("hostmanager --timeout=", []),
        ("hostmanager up --time", ["--timeout"]),
        ("hostmanager completion z", ["zsh"]),
    ],
)
def test_bash_completes_words_with_equals_signs_and_colons(
    lab: FakeDaemon, monkeypatch: pytest.MonkeyPatch, line: str, expected: list[str]
) -> None:
    assert complete(monkeypatch, line) == expected


def test_without_breaks_a_completion_is_the_whole_word(
    lab: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert complete(monkeypatch, "hostmanager update cam1=d", " \t\n") == ["cam1=down"]
    assert complete(monkeypatch, "hostmanager up class:C", " \t\n") == ["class:Camera"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [("hostmanager update cam1=d", ["down"]), ("hostmanager up cam1 class:T", ["Thermo"])],
)
def test_the_script_works_in_a_real_bash(
    lab: FakeDaemon, tmp_path: Path, line: str, expected: list[str]
) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    program = tmp_path / "hostmanager"
    program.write_text(
        f"#!{sys.executable}\nfrom hostmanager_client.cli import main\nmain()\n", encoding="utf-8"
    )
    program.chmod(0o755)
    script = (
        f'PATH="{tmp_path}:$PATH"; eval "$(hostmanager completion bash)"; compopt() {{ :; }}\n'
        f"COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; _hostmanager_completion hostmanager\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run([bash, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:-1] == expected, done.stderr
