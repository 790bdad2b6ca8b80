"""The request of `hostmanager systemd install`: checks, and the plan of the unit."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from hostmanager.values import dataclass

from hostmanager_server.commands.default_paths import default_state_dir
from hostmanager_server.commands.serve import serve_command
from hostmanager_server.commands.systemd.hardening import TEMPORARY, missing_folders, written_folders
from hostmanager_server.commands.systemd.unit import Unit, UnitError
from hostmanager_server.commands.systemd.variables import read_env_files_for_unit, unit_environment
from hostmanager_server.config.load import LoadedConfig, load_site_config
from hostmanager_server.core.event_log import Severity
from hostmanager_server.core.manager_status import Problem
from hostmanager_server.linux.trusted_paths import OVERRIDE, Trust
from hostmanager_server.rpc.server import AddressError, parse_listen

SOCKET = "hostmanager.sock"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9:_.-]{0,199}")


@dataclass(frozen=True, slots=True)
class UnitRequest:
    """A request for a unit; the help of the command line describes the fields."""

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
class UnitPlan:
    """A unit, the addresses in its command line, and warnings about the site config.

    `listen` is empty if the site config has the address.
    """

    unit: Unit
    listen: tuple[str, ...]
    warnings: tuple[Problem, ...]


class UnusableSiteError(Exception):
    """A site config with errors."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


def plan(request: UnitRequest, environ: Mapping[str, str]) -> UnitPlan:
    """Plan the unit for a request.

    Raises UnitError for a request that no unit can express, UnusableSiteError for a site config with errors,
    and click's UsageError for a command line that `hostmanager serve` would refuse.
    """
    name = request.name.removesuffix(".service")
    _check_name(name, request.name)
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
    arguments += ["--state-dir", state_dir, *_more_arguments(request, listen)]
    options = _check(arguments, listen)
    files = read_env_files_for_unit(request.env_files)
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
    return UnitPlan(unit, listen, _warnings(config, [*files.warnings, *_missing(writable)]))


def _more_arguments(request: UnitRequest, listen: Sequence[str]) -> list[str]:
    """Return the arguments of `serve` after the directories."""
    arguments = [word for address in listen for word in ("--listen", address)]
    if request.trust_config:
        arguments.append(OVERRIDE)
    return [*arguments, *request.serve_options]


def _warnings(config: LoadedConfig, texts: Sequence[str]) -> tuple[Problem, ...]:
    """Return the warnings of the site config, and the texts as warnings for its file."""
    own = [problem for problem in config.problems if problem.severity is Severity.WARNING]
    return (*own, *(Problem(Severity.WARNING, text, config.file) for text in texts))


def _missing(writable: Sequence[str]) -> list[str]:
    return [
        f"{folder} does not exist: create the folder before the daemon starts, or agents cannot write there"
        for folder in missing_folders(writable)
    ]


def _check_name(name: str, given: str) -> None:
    if not _NAME.fullmatch(name):
        raise UnitError(
            f"cannot use {given!r}: {given!r} is no name for a unit; use letters, digits and any of : _ . -"
        )


def _trust(request: UnitRequest) -> Trust:
    """Return the rule of trust for the user that the daemon will run as, if root asks.

    Another user can only print the unit (--print), so that files of this user count as trusted.
    """
    uid = os.geteuid()
    if uid == 0 and not request.of_user:
        uid = pwd.getpwnam(request.as_user or "root").pw_uid
    return Trust(uid, request.trust_config or OVERRIDE in request.serve_options)


def _read(site_file: Path, host: str | None, working_dir: Path, trust: Trust) -> LoadedConfig:
    config = load_site_config(site_file, host=host, working_dir=working_dir, trust=trust)
    if not config.ok:
        raise UnusableSiteError(config.problems)
    # The config falls back on `localhost`; a name on the command line is exact.
    if host is not None and config.host != host:
        raise UnitError(
            f"cannot use {site_file}: no host {host!r}; leave --host out to use its {config.host!r}"
        )
    return config


def _check_user(name: str) -> None:
    try:
        pwd.getpwnam(name)
    except KeyError:
        raise UnitError(
            f"cannot run the daemon as {name!r}: there is no user {name!r} on this host; "
            "create the user or change --as-user"
        ) from None


def _check_rights(request: UnitRequest) -> None:
    root = not request.of_user and (not request.as_user or pwd.getpwnam(request.as_user).pw_uid == 0)
    if request.hardened and root:
        raise UnitError(
            "cannot harden a daemon of root: its agents may run as any user and use any right; "
            "name a user with --as-user"
        )
    if request.writable and not request.hardened:
        raise UnitError(
            "cannot take --writable without --hardened: an ordinary unit forbids no writing; "
            "add --hardened or leave --writable out"
        )


def _writable(request: UnitRequest, config: LoadedConfig, state_dir: str) -> tuple[str, ...]:
    """Return the folders that must be writable for a hardened daemon.

    The result leaves out the folders that systemd creates.
    """
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
    """Return the program for the unit, by default the running program.

    The default is the path of the call, which keeps its links: links lead to the next installed version too.
    """
    if given is not None:
        program = given.absolute()
        if not os.access(program, os.X_OK) or not program.is_file():
            raise UnitError(f"cannot start {program}: {program} is no program; name another with --program")
        return program
    called = shutil.which(sys.argv[0])
    candidates = [Path(called)] if called and Path(called).name == "hostmanager" else []
    candidates.append(Path(sys.executable).with_name("hostmanager"))
    for candidate in candidates:
        if os.access(candidate, os.X_OK):
            return candidate.absolute()
    raise UnitError("cannot find the program 'hostmanager'; give its path with --program")


def _listen(request: UnitRequest, name: str, config: LoadedConfig) -> tuple[tuple[str, ...], bool]:
    """Return the addresses, and whether systemd creates the socket's directory."""
    if request.listen:
        return tuple(_absolute(address) for address in request.listen), False
    if config.options.address:
        return (), False
    runtime = f"/run/user/{os.getuid()}" if request.of_user else "/run"
    return (f"unix:{runtime}/{name}/{SOCKET}",), True


def _absolute(address: str) -> str:
    """Return the address with an absolute path.

    Leaves a bad address to `_check`, which refuses it.
    """
    try:
        return parse_listen(address, insecure=True).text
    except AddressError:
        return address


def _state_dir(request: UnitRequest, name: str, environ: Mapping[str, str]) -> tuple[str, bool]:
    """Return the state directory, and whether systemd creates the directory."""
    if request.state_dir is not None:
        return str(request.state_dir.absolute()), False
    if request.of_user:
        return str(default_state_dir(dict(environ)).with_name(name).absolute()), False
    return f"/var/lib/{name}", True


def _check(arguments: Sequence[str], listen: Sequence[str]) -> Mapping[str, object]:
    """Parse the arguments as `hostmanager serve` does.

    Raises UnitError for a bad address.
    """
    parsed = serve_command.make_context("hostmanager serve", list(arguments[1:])).params
    for address in listen:
        try:
            parse_listen(address, insecure=bool(parsed["insecure"]))
        except AddressError as error:
            hint = " (options of `serve` follow after --)" if "--insecure" in str(error) else ""
            raise UnitError(f"{error}{hint}") from error
    return parsed
