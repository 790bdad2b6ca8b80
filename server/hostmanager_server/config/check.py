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
from hostmanager_server.core.spec import InstanceSpec


@click.group("config")
def config_command() -> None:
    """Look at site config files."""


@config_command.command("check")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--host", "--site-host", "host", help="Check what is for this host only. Default: all hosts.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def check_command(context: click.Context, file: Path | None, host: str | None, as_json: bool) -> None:
    """Check the site config FILE (default: $OCS_CONFIG_DIR/default.yaml), with no daemon.

    Every problem is named with file, line and column, and a summary follows. Exits 0 when the file can be
    used, warnings or not, and 1 when it cannot.
    """
    try:
        path = file or default_site_file(os.environ)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    loaded = [load_site_config(path, host=host)] if host else load_all_hosts(path)
    problems = _problems(loaded)
    # The command line's own --json is kept in an object of the client, whose type the server cannot know.
    if as_json or getattr(context.find_root().obj, "json", False):
        click.echo(json.dumps(_as_json(path, loaded, problems), indent=2))
    else:
        for problem in problems:
            click.echo(str(problem))
        click.echo(_summary(path, loaded, problems))
    context.exit(0 if _good(loaded) else 1)


def _good(loaded: Sequence[LoadedConfig]) -> bool:
    return all(config.ok for config in loaded)


def _problems(loaded: Sequence[LoadedConfig]) -> list[Problem]:
    """Each once, in the order of the file."""
    found = dict.fromkeys(problem for config in loaded for problem in config.problems)
    return sorted(found, key=lambda problem: (problem.line, problem.column))


def _summary(path: Path, loaded: Sequence[LoadedConfig], problems: Sequence[Problem]) -> str:
    errors = sum(problem.severity is Severity.ERROR for problem in problems)
    counts = f"{_count(errors, 'error')}, {_count(len(problems) - errors, 'warning')}"
    if not _good(loaded):
        return f"{path}: cannot be used: {counts}"
    return f"{path}: good: {'; '.join(map(_host, loaded))}; {counts}"


def _host(config: LoadedConfig) -> str:
    instances = config.spec.instances if config.spec is not None else ()
    text = f"host {config.host} has {_count(len(instances), 'managed instance')}"
    idle = sum(bool(spec.problem) for spec in instances) if config.local else 0
    return f"{text}, {idle} of which cannot start" if idle else text


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


def _as_json(path: Path, loaded: Sequence[LoadedConfig], problems: Sequence[Problem]) -> dict[str, Any]:
    return {
        "file": str(path),
        "success": _good(loaded),
        "problems": [
            {
                "severity": problem.severity.value,
                "file": problem.file,
                "line": problem.line or None,
                "column": problem.column or None,
                "message": problem.message,
            }
            for problem in problems
        ],
        "hosts": {
            config.host: [_instance_as_json(spec) for spec in config.spec.instances]
            for config in loaded
            if config.spec is not None
        },
    }


def _instance_as_json(spec: InstanceSpec) -> dict[str, Any]:
    process = spec.process
    return {
        "instance_id": spec.instance_id,
        "agent_class": spec.agent_class,
        "management": spec.management.value,
        "target_state": spec.initial_target.value,
        "operable": not spec.problem,
        "problem": spec.problem or None,
        "command": list(process.argv) if process is not None else None,
        "command_source": process.source if process is not None else None,
        "working_dir": process.working_dir if process is not None else None,
        "user": (process.user or None) if process is not None else None,
    }
