"""`hostmanager config check`: what the daemon would say of a site config, without one."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from hostmanager_server.config.load import (
    LoadedConfig,
    default_site_file,
    load_all_hosts,
    load_site_config,
)
from hostmanager_server.core.actions import Severity
from hostmanager_server.core.manager import Problem


@click.group("config")
def config_command() -> None:
    """Look at site config files."""


@config_command.command("check")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--host", "--site-host", "host", help="Check what is for this host only. Default: all hosts.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@click.pass_context
def check_command(context: click.Context, file: Path | None, host: str | None, as_json: bool) -> None:
    """Check the site config FILE (default: $OCS_CONFIG_DIR/default.yaml), with no daemon.

    Every problem is named with file, line and column. Exits 0 when the file can be used, warnings or not,
    and 1 when it cannot.
    """
    try:
        path = file or default_site_file(os.environ)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    loaded = [load_site_config(path, host=host)] if host else load_all_hosts(path)
    problems = list(dict.fromkeys(problem for config in loaded for problem in config.problems))
    ok = all(config.ok for config in loaded)
    if as_json or (isinstance(context.obj, dict) and context.obj.get("json")):
        click.echo(json.dumps(_as_json(path, loaded, problems, ok), indent=2))
    else:
        for problem in problems:
            click.echo(str(problem), err=problem.severity is Severity.ERROR)
        click.echo(_summary(path, loaded, problems, ok))
    context.exit(0 if ok else 1)


def _summary(path: Path, loaded: Sequence[LoadedConfig], problems: Sequence[Problem], ok: bool) -> str:
    errors = sum(problem.severity is Severity.ERROR for problem in problems)
    warnings = len(problems) - errors
    counts = f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"
    if not ok:
        return f"{path}: cannot be used: {counts}"
    hosts = ", ".join(
        f"{config.host} ({len(config.spec.instances)} managed, {_inoperable(config)} without a command)"
        for config in loaded
        if config.spec is not None
    )
    return f"{path}: good: {hosts}; {counts}"


def _inoperable(config: LoadedConfig) -> int:
    return sum(spec.process is None for spec in config.spec.instances) if config.spec is not None else 0


def _as_json(
    path: Path, loaded: Sequence[LoadedConfig], problems: Sequence[Problem], ok: bool
) -> dict[str, Any]:
    return {
        "file": str(path),
        "success": ok,
        "problems": [
            {
                "severity": problem.severity.value,
                "file": problem.file,
                "line": problem.line,
                "column": problem.column,
                "message": problem.message,
            }
            for problem in problems
        ],
        "hosts": {
            config.host: [
                {
                    "instance_id": spec.instance_id,
                    "agent_class": spec.agent_class,
                    "management": spec.management.value,
                    "target_state": spec.initial_target.value,
                    "operable": spec.process is not None,
                    "command": list(spec.process.argv) if spec.process is not None else [],
                    "command_source": spec.process.source if spec.process is not None else "",
                    "problem": spec.problem,
                }
                for spec in config.spec.instances
            ]
            for config in loaded
            if config.spec is not None
        },
    }
