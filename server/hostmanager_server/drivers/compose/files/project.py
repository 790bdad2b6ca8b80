"""Compose projects, read through `compose config`.

Only compose knows the meaning of compose files.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from hostmanager.values import replace

from hostmanager_server.core.catalog import Project
from hostmanager_server.core.spec import STOP_GRACE, Condition, PullPolicy, ServiceDependency, ServiceSpec
from hostmanager_server.drivers.compose.cli.program import ComposeError, ComposeProgram
from hostmanager_server.drivers.compose.definition_hash import (
    hashable,
    shares_with_services,
    volumes_of_services,
)
from hostmanager_server.drivers.compose.files.compose_document import load_document
from hostmanager_server.drivers.compose.files.content_sources import with_content_sources
from hostmanager_server.drivers.compose.files.inputs import (
    ComposeInputError,
    ComposeInputs,
    check_inputs,
    find_inputs,
    interpolate,
    project_variables,
    read_input,
)
from hostmanager_server.drivers.compose.files.unset_variables import unset_variables
from hostmanager_server.linux import child_signals

# The prefix that logrus puts before a message when stderr is no terminal.
_LOG_PREFIX = re.compile(r'^time="[^"]*" level=(\w+) msg="(.*)"$')
_NOT_UNDERSTOOD = "cannot understand the output of compose config for"
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|m|us|µs|ns|s)")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_QUICK_POLICIES = ("missing", "if_not_present", "never")  # never fetch an image that exists
_V1_NOT_IN_A_NAME = re.compile(r"[^-_a-z0-9]")


def read_project(
    program: ComposeProgram, files: tuple[str, ...], *, environ: Mapping[str, str], timeout: float = 30.0
) -> Project:
    """Return the project of these compose files.

    `timeout` (s) holds for each of at most five calls of compose. Raises ComposeError with compose's own
    message.
    """

    def config(*args: str, all_profiles: bool, warnings: list[str] | None = None) -> str:
        argv = program.command(files, None, "config", *args, all_profiles=all_profiles)
        return _run(argv, files, environ, timeout, warnings=warnings)

    inputs = find_inputs(files, environ=environ)
    try:
        check_inputs(inputs.files)  # compose would read a pipe until the timeout
    except ComposeInputError as error:
        raise ComposeError(str(error)) from error
    warnings: list[str] = []
    text = config(all_profiles=True, warnings=warnings)
    document = _parse(text, files)
    services = document.get("services") or {}
    if not isinstance(services, dict):
        raise ComposeError(f"{_NOT_UNDERSTOOD} {files[0]}")
    name = str(document.get("name") or _name_of_v1(files, environ))
    active = set(services)
    if any(isinstance(s, dict) and s.get("profiles") for s in services.values()):
        active = set(config("--services", all_profiles=False).split())
    hashes = _hashes(config("--hash", "*", all_profiles=True))
    for unstable in _services_of_unstable_hash(program, services, inputs):
        hashes.pop(unstable, None)
    shared = {n for n, each in services.items() if isinstance(each, dict) and shares_with_services(each)}
    hashed: dict[str, str] = {}
    definitions: dict[str, Any] = {}
    if shared and not program.legacy:
        all_definitions = json.loads(config("--format", "json", all_profiles=True))["services"]
        definitions = {n: all_definitions[n] for n in shared}
        hashed = {n: hashable(definitions[n], hashes[n]) for n in shared & set(hashes)}
    for unknown in shared:
        if not hashed.get(unknown):
            hashes.pop(unknown, None)
    injected = _injected_files(document)
    specs = {
        str(service): replace(
            _spec(program, name, files, str(service), each, hashes),
            hashed_definition=hashed.get(service, ""),
            started_by_compose=_started_by_compose(each, injected),
        )
        for service, each in services.items()
        if isinstance(each, dict)
    }
    specs = with_content_sources(specs, document, project_variables(files, environ=environ))
    if not program.legacy and (with_env_file := inputs.with_env_file):
        argv = program.command(("-",), None, "config", "--hash", "*", all_profiles=True)
        resolved: dict[str, str] = {}
        with suppress(ComposeError):  # the hashes stay unknown
            resolved = _hashes(_run(argv, files, environ, timeout, document=text))
        specs = _with_resolved_hashes(specs, with_env_file, resolved, definitions)
    return Project(name, files, specs, frozenset(specs) - active, unset_variables("\n".join(warnings)))


def _with_resolved_hashes(
    specs: Mapping[str, ServiceSpec],
    with_env_file: Collection[str],
    resolved: Mapping[str, str],
    definitions: Mapping[str, Any],
) -> dict[str, ServiceSpec]:
    """Return the services with hashes that cover the contents of their env files.

    Compose 2.26 labels a container with the hash of the definition after the env files were read, and
    `config --hash` prints another. The hash of the output of `config` agrees with the label, except for
    services that use other services: `definitions` has theirs, from that output.
    """
    found = dict(specs)
    for name, spec in specs.items():
        if name not in with_env_file or spec.built:
            continue
        config_hash, text = resolved.get(name, ""), ""
        if name in definitions:
            text = hashable(definitions[name], config_hash)
            config_hash = config_hash if text else ""  # a hash that no container has
        found[name] = replace(spec, config_hash=config_hash, hashed_definition=text)
    return found


def _spec(
    program: ComposeProgram,
    project: str,
    files: tuple[str, ...],
    name: str,
    service: dict[str, Any],
    hashes: Mapping[str, str],
) -> ServiceSpec:
    built = service.get("build") is not None
    joint = "_" if program.legacy else "-"
    return ServiceSpec(
        project=project,
        files=files,
        service=name,
        image=str(service.get("image") or f"{project}{joint}{name}"),
        replicas=_replicas(service),
        dependencies=_dependencies(service),
        config_hash=hashes.get(name, ""),
        # No registry has an image without a name in the file; an image of the derived name is another image.
        pull_policy=_pull_policy(service.get("pull_policy")) if service.get("image") else PullPolicy.BUILD,
        built=built,
        profiles=tuple(map(str, service.get("profiles") or ())),
        platform=str(service.get("platform") or ""),
        stop_grace=_seconds(service.get("stop_grace_period")),
        slow_to_create=built or str(service.get("pull_policy") or "missing") not in _QUICK_POLICIES,
    )


def _dependencies(service: dict[str, Any]) -> tuple[ServiceDependency, ...]:
    given = service.get("depends_on") or {}
    settings = given if isinstance(given, dict) else dict.fromkeys(given)  # v1 prints a list
    with_volumes = volumes_of_services(service)
    return tuple(
        _dependency(str(name), settings[name] or {}, restart=str(name) in with_volumes)
        for name in sorted(settings, key=str)
    )


def _dependency(name: str, given: dict[str, Any], *, restart: bool) -> ServiceDependency:
    try:
        condition = Condition(given.get("condition", Condition.STARTED.value))
    except ValueError:
        condition = Condition.STARTED
    required = given.get("required") not in (False, "false")
    return ServiceDependency(name, condition, restart or given.get("restart") in (True, "true"), required)


def _injected_files(document: dict[str, Any]) -> set[tuple[str, str]]:
    """Return the secrets and configs, by kind and name, whose contents compose copies into containers."""
    return {
        (kind, str(name))
        for kind in ("secrets", "configs")
        for name, each in (document.get(kind) or {}).items()
        if isinstance(each, dict) and ("environment" in each or "content" in each)
    }


def _started_by_compose(service: dict[str, Any], injected: set[tuple[str, str]]) -> bool:
    """Return whether compose, and not the engine alone, must start a new container of the service.

    Some versions of compose copy contents of secrets and configs at the start, and all run hooks then.
    """
    if service.get("post_start") or service.get("provider"):
        return True
    used = {
        (kind, str(entry.get("source") if isinstance(entry, dict) else entry))
        for kind in ("secrets", "configs")
        for entry in service.get(kind) or ()
    }
    return not used.isdisjoint(injected)


def _replicas(service: dict[str, Any]) -> int:
    deploy = service.get("deploy")
    given = deploy.get("replicas") if isinstance(deploy, dict) else None
    if given is None:
        given = service.get("scale")
    return int(given) if isinstance(given, int | str) and str(given).isdecimal() else 1


def _seconds(given: object) -> float:
    """Return a duration of Go, such as 1h2m3.5s, in s; the engine's default without one."""
    text = str(given or "")
    if not text:
        return STOP_GRACE
    total = sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text))
    return -total if text.startswith("-") else total


def _pull_policy(given: object) -> PullPolicy:
    match given:
        case "never":
            return PullPolicy.NEVER
        case "missing" | "if_not_present":
            return PullPolicy.MISSING
        case "build":
            return PullPolicy.BUILD
    return PullPolicy.ALWAYS


def _hashes(text: str) -> dict[str, str]:
    return {words[0]: words[1] for line in text.splitlines() if len(words := line.split()) == 2}


def _services_of_unstable_hash(
    program: ComposeProgram, services: Mapping[str, Any], inputs: ComposeInputs
) -> frozenset[str]:
    """Return the services with hashes that differ without any change.

    The hash may then differ from the hash on the containers. Observed with compose 2.26: services with an
    env_file, for which `_with_resolved_hashes` finds the right hash. With v1: all services, because the hash
    covers the image id, which a pull changes. Built services are included untested.
    """
    if program.legacy:
        return frozenset(map(str, services))
    built = {str(name) for name, each in services.items() if isinstance(each, dict) and each.get("build")}
    return frozenset(built | inputs.with_env_file)


def _name_of_v1(files: tuple[str, ...], environ: Mapping[str, str]) -> str:
    """Return the project name that compose v1 derives; v1 does not print the name."""
    folder = Path(files[0]).absolute().parent
    name = environ.get("COMPOSE_PROJECT_NAME", "")
    if not name:
        try:
            lines = read_input(folder / ".env").decode(errors="replace").splitlines()
        except OSError:
            lines = []
        given = (line.partition("=") for line in lines if not line.lstrip().startswith("#"))
        found = {key.strip(): value.strip().strip("'\"") for key, _, value in given}
        name = interpolate(found.get("COMPOSE_PROJECT_NAME", ""), environ)
    return _V1_NOT_IN_A_NAME.sub("", (name or folder.name).lower()) or "default"


def _parse(text: str, files: tuple[str, ...]) -> dict[str, Any]:
    try:
        document = load_document(text)
    except yaml.YAMLError as error:
        raise ComposeError(f"{_NOT_UNDERSTOOD} {files[0]}: {error}") from error
    if not isinstance(document, dict):
        raise ComposeError(f"{_NOT_UNDERSTOOD} {files[0]}")
    return document


def _run(
    argv: Sequence[str],
    files: tuple[str, ...],
    environ: Mapping[str, str],
    timeout: float,
    *,
    document: str = "",
    warnings: list[str] | None = None,
) -> str:
    """Run compose with `document` as its input; return its output, and add its messages to `warnings`."""
    folder = Path(files[0]).parent
    for file in files:  # v1's message about a missing file is no help
        if not Path(file).is_file():
            raise ComposeError(
                f"cannot read '{file}': there is no file; correct --docker-compose, or create the file"
            )
    try:
        with child_signals.unblocked():
            done = subprocess.run(
                argv, cwd=folder, env=environ, input=document, capture_output=True, text=True,
                errors="replace", timeout=timeout, check=False, start_new_session=True,
            )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ComposeError(f"cannot read '{files[0]}': compose did not answer in {timeout:g} s") from error
    except OSError as error:
        raise ComposeError(f"cannot run {argv[0]}: {error.strerror}: {error.filename}") from error
    if done.returncode != 0:
        raise ComposeError(_error_message(done.stderr) or f"compose ended with code {done.returncode}")
    if warnings is not None:
        warnings.append(done.stderr)
    return done.stdout


def _error_message(text: str) -> str:
    """Return compose's errors in one line; its warnings only if it prints no errors."""
    warnings, errors = [], []
    for line in text.splitlines():
        match = _LOG_PREFIX.match(line.strip())
        if match is None:
            errors.append(line.strip())
        elif match[1] == "warning":
            warnings.append(match[2].replace('\\"', '"'))
        else:
            errors.append(match[2].replace('\\"', '"'))
    messages = [line for line in errors if line] or warnings
    return " ".join(messages)
