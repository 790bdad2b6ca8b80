"""The command line's runner, the same on every click."""

from __future__ import annotations

from inspect import signature
from typing import Any

from click.testing import CliRunner


def make_runner() -> CliRunner:
    """Make a runner that keeps standard error apart, as click does by itself since 8.2."""
    apart: dict[str, Any] = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}
    return CliRunner(**apart)
