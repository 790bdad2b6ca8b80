"""The command `hostmanager config check`: checks without a daemon."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from hostmanager.values import dataclass, replace

from hostmanager_server.commands.machine_checks import MachineChecks
from hostmanager_server.config.hosts import ANY_HOST, host_names
from hostmanager_server.config.load import (
    LoadedConfig,
    ReadConfig,
    default_site_file,
    read_all_hosts,
    read_config,
    read_source,
    with_config_dir,
)
from hostmanager_server.config.manager_options import ManagerOptions
from hostmanager_server.config.node_reader import MAX_PROBLEMS_LISTED
from hostmanager_server.config.places import Places
from hostmanager_server.config.secrets import masked
from hostmanager_server.core.catalog import UNCLAIMED, Catalog, Project, with_services
from hostmanager_server.core.event_log import Severity
from hostmanager_server.core.manager_status import Problem
from hostmanager_server.core.printable import printable
from hostmanager_server.core.spec import InstanceSpec, Management, ProcessSpec, ServiceSpec
from hostmanager_server.drivers.exec.command import inherited_environment
from hostmanager_server.linux.trusted_paths import Trust


@dataclass(frozen=True, slots=True)
class CheckFlags:
    """The command line of `config check`.

    The help text of each option describes its field.
    """

    file: Path | None
    host: str | None
    working_dir: Path | None
    trust_config: bool
    no_compose: bool
    here: bool | None
    as_json: bool


@click.group("config")
def config_command() -> None:
    """Check site config files."""


@config_command.command("check")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--host", "--site-host", "host", help="Check the entry of this host only. Default: all hosts.")
@click.option(
    "--working-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="The directory of relative paths, as for `serve`. Default: the current directory.",
)
@click.option("--trust-config", is_flag=True, help="Use files that other users may write, as with `serve`.")
@click.option("--no-compose", is_flag=True, help="Do not check the compose files.")
@click.option(
    "--here/--no-here",
    default=None,
    help="Fail if users, programs, folders or ports are not as the instances need them on this machine; or "
    "do not look at the machine. Default: warnings, for this machine's host.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def check_command(context: click.Context, /, **given: Any) -> None:
    """Check the site config FILE (default: $OCS_CONFIG_DIR/default.yaml), without a daemon.

    The command prints every problem with file, line and column, and then a summary. The command also checks
    the compose files that the HostManager entries name and that are on this machine, with the docker compose
    program. For this machine's host, the command looks for what the instances need here: users, groups,
    programs and their interpreters, folders, free ports, and the hub of OCS. The exit code is 0 if the daemon
    can use all files, with or without warnings, and 1 if not; with --here, also 1 if something is missing
    here.
    """
    flags = CheckFlags(**given)
    checked = _check(flags)
    # The client keeps the command line's own --json in an object that the server cannot know the type of.
    if flags.as_json or getattr(context.find_root().obj, "json", False):
        click.echo(json.dumps(checked.to_json(), indent=2))
    else:
        for problem in checked.problems:
            click.echo(printable(str(problem)))
        for line in checked.summary():
            click.echo(printable(line))
    context.exit(0 if checked.good else 1)


def _check(flags: CheckFlags) -> _Checked:
    try:
        path = flags.file or default_site_file(os.environ)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    folder = (flags.working_dir or Path.cwd()).absolute()
    trust = Trust.of_this_process(override=flags.trust_config)
    most = MAX_PROBLEMS_LISTED
    if flags.host:
        read = [read_config(read_source(path, folder, None, most, trust), flags.host)]
    else:
        read = read_all_hosts(path, working_dir=folder, most_problems=most, trust=trust)
    environ = with_config_dir(inherited_environment(os.environ), path)
    catalogs = [
        Catalog() if flags.no_compose else _catalog(each.config, folder, trust, environ) for each in read
    ]
    hosts = [
        _with_machine(_with_services(each.config, catalog), each, flags, environ)
        for each, catalog in zip(read, catalogs, strict=True)
    ]
    return _Checked(path, tuple(hosts), tuple(catalogs))


def _with_machine(
    config: LoadedConfig, read: ReadConfig, flags: CheckFlags, environ: Mapping[str, str]
) -> LoadedConfig:
    """Return the config with what its instances lack on this machine, if it is for this machine."""
    spec = config.spec or config.partial
    local = config.host in (*host_names(None), ANY_HOST) if flags.host else config.local
    if spec is None or flags.here is False or not (local or (flags.here and flags.host)):
        return config
    severity = Severity.ERROR if flags.here else Severity.WARNING
    found = MachineChecks(Places(read), environ, severity).problems(spec)
    return replace(config, problems=(*config.problems, *found))


@dataclass(frozen=True, slots=True)
class _Checked:
    path: Path
    hosts: tuple[LoadedConfig, ...]
    catalogs: tuple[Catalog, ...]  # of the compose files of each host

    @property
    def good(self) -> bool:
        """Return whether the daemon can use all files."""
        missing = any(_errors(config.problems) for config in self.hosts)
        return self._site_is_good and not missing and not any(map(_errors, self._compose_problems.values()))

    @property
    def _site_is_good(self) -> bool:
        return all(config.ok for config in self.hosts)

    @property
    def _compose_problems(self) -> dict[str, tuple[Problem, ...]]:
        return {file: found for catalog in self.catalogs for file, found in catalog.problems.items()}

    @property
    def _projects(self) -> dict[str, Project]:
        return {project.files[0]: project for catalog in self.catalogs for project in catalog.projects}

    @property
    def problems(self) -> list[Problem]:
        """Return each problem once, in the order of the files."""
        compose = (problem for problems in self._compose_problems.values() for problem in problems)
        return [*self._site_problems, *compose]

    @property
    def _site_problems(self) -> list[Problem]:
        found = dict.fromkeys(problem for config in self.hosts for problem in config.problems)
        main = str(self.path)
        return sorted(found, key=lambda each: (each.file != main, each.file, each.line, each.column))

    def summary(self) -> list[str]:
        """Return one line for each file."""
        verdict = "cannot be used"
        if self._site_is_good:
            verdict = f"good: {'; '.join(map(self._host, self.hosts))}"
        lines = [_line(str(self.path), verdict, self._site_problems)]
        projects = self._projects
        for file, problems in self._compose_problems.items():
            verdict = "cannot be used" if _errors(problems) else "not read"
            if (project := projects.get(file)) is not None:
                verdict = f"good: project {project.name} has {_count(len(project.services), 'service')}"
            lines.append(_line(file, verdict, problems))
        return lines

    @staticmethod
    def _host(config: LoadedConfig) -> str:
        instances = config.spec.instances if config.spec is not None else ()
        managed = [spec for spec in instances if spec.agent_class != UNCLAIMED]
        text = f"host {config.host} has {_count(len(managed), 'managed instance')}"
        idle = sum(bool(spec.problem) for spec in managed) if config.local else 0
        if idle:
            text += f", {idle} of which cannot start"
        observed = len(instances) - len(managed)
        return f"{text}, and observes {_count(observed, 'compose service')}" if observed else text

    def to_json(self) -> dict[str, Any]:
        """Return the answer for --json, as docs/reference/cli.md describes it."""
        return {
            "file": str(self.path),
            "success": self.good,
            "problems": [
                {
                    "severity": problem.severity.value,
                    "file": problem.file,
                    "line": problem.line or None,
                    "column": problem.column or None,
                    "message": problem.message,
                }
                for problem in self.problems
            ],
            "hosts": {
                config.host: [_instance_as_json(spec) for spec in config.spec.instances]
                for config in self.hosts
                if config.spec is not None
            },
            "compose_projects": [
                {"name": project.name, "files": list(project.files), "services": sorted(project.services)}
                for project in self._projects.values()
            ],
        }


def _catalog(config: LoadedConfig, working_dir: Path, trust: Trust, environ: Mapping[str, str]) -> Catalog:
    """Read the compose files of a host; those of another machine only if all are here.

    Returns an empty catalog if there are none.
    """
    options = config.options
    if not options.docker_compose:
        return Catalog()
    if not config.local and not all((working_dir / file).is_file() for file in _files(options)):
        return Catalog()
    from hostmanager_server.drivers.compose.files.catalog_reader import (
        CatalogReader,  # slow to import, and only a host with containers needs it
    )

    reader = CatalogReader(
        options.docker_compose, prefix=options.docker_service_prefix, program=options.docker_compose_bin,
        working_dir=working_dir, environ=environ, trust=trust,
    )  # fmt: skip
    catalog = reader.load()
    if not reader.program_problem:
        return catalog
    # The compose file may be for another machine, which has a compose program.
    text = f"not read: {reader.program_problem}"
    problems = {file: (Problem(Severity.WARNING, text, file),) for file in catalog.problems}
    return replace(catalog, problems=problems)


def _with_services(config: LoadedConfig, catalog: Catalog) -> LoadedConfig:
    """Return the config of a host with the services of its instances, if its compose files were read."""
    read = catalog.projects or any(map(_errors, catalog.problems.values()))
    if config.spec is None or not read:
        return config
    spec = with_services(config.spec, catalog)
    warnings = [
        Problem(Severity.WARNING, f"instance {one.instance_id!r} cannot start: {one.problem}", config.file)
        for one in spec.instances
        if one.management is Management.DOCKER and one.problem
    ]
    return replace(config, spec=spec, problems=(*config.problems, *warnings))


def _files(options: ManagerOptions) -> list[str]:
    """Return all compose files; a colon joins the files of one project."""
    return [file for files in options.docker_compose for file in files.split(":")]


def _errors(problems: Sequence[Problem]) -> int:
    return sum(problem.severity is Severity.ERROR for problem in problems)


def _line(file: str, verdict: str, problems: Sequence[Problem]) -> str:
    errors = _errors(problems)
    counts = f"{_count(errors, 'error')}, {_count(len(problems) - errors, 'warning')}"
    return f"{file}: {verdict}{';' if verdict.startswith('good') else ':'} {counts}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


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
        "env": masked(dict(process.env)) if process is not None else None,
        "env_files": [file.path for file in process.env_files] if process is not None else None,
        "env_inherit": _env_inherit(process) if process is not None else None,
        "service": _service_as_json(spec.service) if spec.service is not None else None,
    }


def _env_inherit(process: ProcessSpec) -> list[str] | None:
    """Return the patterns, or None for the default inheritance."""
    return None if process.env_inherit is None else list(process.env_inherit)


def _service_as_json(service: ServiceSpec) -> dict[str, Any]:
    return {
        "project": service.project,
        "files": list(service.files),
        "service": service.service,
        "image": service.image,
    }
