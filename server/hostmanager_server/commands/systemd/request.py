"""What `hostmanager systemd install` is asked for, checked and made into a unit."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hostmanager_server.commands.default_paths import default_state_dir
from hostmanager_server.commands.serve import serve_command
from hostmanager_server.commands.systemd.hardening import TEMPORARY, missing_folders, written_folders
from hostmanager_server.commands.systemd.unit import Unit, UnitError
from hostmanager_server.commands.systemd.variables import read_given, unit_environment
from hostmanager_server.config.load import LoadedConfig, load_site_config
from hostmanager_server.core.event_log import Severity
from hostmanager_server.core.manager_status import Problem
from hostmanager_server.linux.trusted_paths import OVERRIDE, Trust
from hostmanager_server.rpc.server import AddressError, parse_listen

SOCKET = "hostmanager.sock"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9:_.-]{0,199}")


@dataclass(frozen=True, slots=True)
class UnitRequest:
    """What the command line says; see its help."""

    site_file: Path
    host: str | None = None
    name: str = "hostmanager"
    of_user: bool = False
    as_user: str = ""
    state_dir: Path | None = None
    listen: tuple[str, ...] = ()
    working_dir: Path | None = None
    program: Path | None = None
    env: tuple[str, ...] = ()
    serve_options: tuple[str, ...] = ()
    env_files: tuple[str, ...] = ()
    hardened: bool = False
    writable: tuple[Path, ...] = ()
    trust_config: bool = False


@dataclass(frozen=True, slots=True)
class Planned:
    """The unit, the addresses that its daemon is told to listen on (empty: the site config says where), and
    what is not quite right with the site config."""

    unit: Unit
    listen: tuple[str, ...]
    warnings: tuple[Problem, ...]


class BadSiteError(Exception):
    """The site config cannot be used."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


def plan(request: UnitRequest, environ: Mapping[str, str]) -> Planned:
    """The unit for what is asked. Raises UnitError, BadSiteError, or click's UsageError for a command line
    that `hostmanager serve` would refuse."""
    name = request.name.removesuffix(".service")
    if not _NAME.fullmatch(name):
        raise UnitError(f"{request.name!r} is no name for a unit; use letters, digits and any of : _ . -")
    if request.as_user:
        _check_user(request.as_user)
    _check_rights(request)
    program = _program(request.program)
    site_file = request.site_file.absolute()
    working_dir = (request.working_dir or Path.cwd()).absolute()
    config = _read(site_file, request.host, working_dir, _trust(request))
    listen, own_socket = _listen(request, name, config)
    state_dir, own_state = _state_dir(request, name, environ)
    arguments = ["serve", str(site_file), "--host", config.host, "--working-dir", str(working_dir)]
    arguments += ["--state-dir", state_dir]
    for address in listen:
        arguments += ["--listen", address]
    if request.trust_config:
        arguments.append(OVERRIDE)
    arguments += request.serve_options
    options = _check(arguments, listen)
    files = read_given(request.env_files)
    writable = _writable(request, config, state_dir)
    unit = Unit(
        name=name,
        host=config.host,
        program=str(program),
        arguments=arguments,
        environment=unit_environment(request.env, environ, site_file),
        user=request.as_user,
        of_user=request.of_user,
        runtime_directory=own_socket,
        state_directory=own_state,
        containers=bool(options.get("docker_compose") or config.options.docker_compose),
        environment_files=files.paths,
        hardened=request.hardened,
        writable=writable,
    )
    warnings = [p for p in config.problems if p.severity is Severity.WARNING]
    warnings += [Problem(Severity.WARNING, text, str(site_file)) for text in files.warnings]
    for folder in missing_folders(writable):
        text = f"{folder} does not exist: make it before the daemon starts, or agents cannot write there"
        warnings.append(Problem(Severity.WARNING, text, str(site_file)))
    return Planned(unit, listen, tuple(warnings))


def _trust(request: UnitRequest) -> Trust:
    """Return what the daemon of the unit may use: root decides for the user that it will have.

    Another user only looks at the unit (--print), so that its own files count as trusted.
    """
    uid = os.geteuid()
    if uid == 0 and not request.of_user:
        uid = pwd.getpwnam(request.as_user or "root").pw_uid
    return Trust(uid, request.trust_config or OVERRIDE in request.serve_options)


def _read(site_file: Path, host: str | None, working_dir: Path, trust: Trust) -> LoadedConfig:
    config = load_site_config(site_file, host=host, working_dir=working_dir, trust=trust)
    if not config.ok:
        raise BadSiteError(config.problems)
    if host is not None and config.host != host:  # it fell back on `localhost`; a name here is meant
        raise UnitError(f"{site_file} has no host {host!r}; leave --host out to use its {config.host!r}")
    return config


def _check_user(name: str) -> None:
    try:
        pwd.getpwnam(name)
    except KeyError:
        raise UnitError(f"there is no user {name!r} on this host; create it or change --as-user") from None


def _check_rights(request: UnitRequest) -> None:
    root = not request.of_user and (not request.as_user or pwd.getpwnam(request.as_user).pw_uid == 0)
    if request.hardened and root:
        raise UnitError(
            "cannot harden a daemon of root, whose agents may be of any user and use any right: "
            "give it a user with --as-user"
        )
    if request.writable and not request.hardened:
        raise UnitError("cannot take --writable without --hardened: nothing is forbidden to write there then")


def _writable(request: UnitRequest, config: LoadedConfig, state_dir: str) -> tuple[str, ...]:
    """The folders that a hardened daemon and its agents write to, except those that systemd makes."""
    if not request.hardened or request.of_user:
        return ()
    assert config.spec is not None
    found = [str(path.absolute()) for path in request.writable]
    if request.state_dir is not None:
        found.append(state_dir)
    addresses = request.listen or ((config.options.address,) if config.options.address else ())
    sockets = [_absolute(address) for address in addresses]
    found += [str(Path(s.removeprefix("unix:")).parent) for s in sockets if s.startswith("unix:")]
    found += [*written_folders(config.spec), *TEMPORARY]
    return tuple(dict.fromkeys(found))


def _program(given: Path | None) -> Path:
    """The program that the unit starts: the one that runs now, by the path it was called by. Links are kept,
    as they lead to what is installed next, too."""
    if given is not None:
        program = given.absolute()
        if not os.access(program, os.X_OK) or not program.is_file():
            raise UnitError(f"{program} is no program; say which with --program")
        return program
    called = shutil.which(sys.argv[0])
    candidates = [Path(called)] if called and Path(called).name == "hostmanager" else []
    candidates.append(Path(sys.executable).with_name("hostmanager"))
    for candidate in candidates:
        if os.access(candidate, os.X_OK):
            return candidate.absolute()
    raise UnitError("the program 'hostmanager' is not found; say where it is with --program")


def _listen(request: UnitRequest, name: str, config: LoadedConfig) -> tuple[tuple[str, ...], bool]:
    """The addresses to be named, and whether the socket is in a directory that systemd makes."""
    if request.listen:
        return tuple(_absolute(address) for address in request.listen), False
    if config.options.address:
        return (), False
    runtime = f"/run/user/{os.getuid()}" if request.of_user else "/run"
    return (f"unix:{runtime}/{name}/{SOCKET}",), True


def _absolute(address: str) -> str:
    """The same address wherever the daemon is started. What is none is for `_check` to refuse."""
    try:
        return parse_listen(address, insecure=True).text
    except AddressError:
        return address


def _state_dir(request: UnitRequest, name: str, environ: Mapping[str, str]) -> tuple[str, bool]:
    """Where the state is kept, and whether systemd makes that directory."""
    if request.state_dir is not None:
        return str(request.state_dir.absolute()), False
    if request.of_user:
        return str(default_state_dir(dict(environ)).with_name(name).absolute()), False
    return f"/var/lib/{name}", True


def _check(arguments: Sequence[str], listen: Sequence[str]) -> Mapping[str, object]:
    """What `hostmanager serve` would make of these arguments."""
    parsed = serve_command.make_context("hostmanager serve", list(arguments[1:])).params
    for address in listen:
        try:
            parse_listen(address, insecure=bool(parsed["insecure"]))
        except AddressError as error:
            hint = " (serve's own options stand after --)" if "--insecure" in str(error) else ""
            raise UnitError(f"{error}{hint}") from error
    return parsed
