"""Some rounds of the referee, and the mutant that it must find. `make torture` plays many more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def referee(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.referee", *words]
    return subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def test_nothing_is_wrong_whenever_the_daemon_dies() -> None:
    done = referee("--rounds", "5", "--seed", "1")
    assert done.returncode == 0, done.stderr
