"""A runner of the command line for every version of click."""

from __future__ import annotations

from inspect import signature
from typing import Any

from click.testing import CliRunner


def make_runner() -> CliRunner:
    """Return a runner with a separate standard error, the default since click 8.2."""
    apart: dict[str, Any] = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}
    return CliRunner(**apart)
