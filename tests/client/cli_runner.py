"""A runner of the command line for every version of click."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import click
from click.testing import CliRunner
from hostmanager_client.cli import brief
from hostmanager_client.cli.app import cli


class CommandLine(click.Command):
    """The whole command line, as the program runs it: short commands first, then the commands of click."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        code = brief.run(list(args or ()))
        if code is not None:
            raise SystemExit(code)
        return cli.main(args, *rest, **extra)


command_line = CommandLine("hostmanager")
TRANSPORTS = ("grpc", "light")


def make_runner() -> CliRunner:
    """Return a runner with a separate standard error, the default since click 8.2."""
    apart: dict[str, Any] = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}
    return CliRunner(**apart)
