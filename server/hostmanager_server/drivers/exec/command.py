"""Commands ready for exec: command line, environment and user of a process spec."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping

from hostmanager.values import dataclass, field

from hostmanager_server import failpoints
from hostmanager_server.core.spec import CommandProbe, EnvFile, InstanceSpec, ProcessSpec
from hostmanager_server.drivers.exec import environment
from hostmanager_server.drivers.exec.agent_user import AccountError, AgentUser, find_user, switch_to
from hostmanager_server.linux import sd_notify
from hostmanager_server.linux.env_file import EnvFileError

RUN_MARKER = "HOSTMANAGER_RUN"
INSTANCE_MARKER = "HOSTMANAGER_INSTANCE_ID"

# Variables of the daemon alone: settings of its libraries, messages of the service manager to the daemon,
# and the run marker of another HostManager that may have started this one.
_NOT_INHERITED = sd_notify.PRIVATE_VARIABLES | {
    "GRPC_ENABLE_FORK_SUPPORT", failpoints.VARIABLE, RUN_MARKER, INSTANCE_MARKER,
}  # fmt: skip
# setproctitle, which OCS calls in every agent, overwrites the environment in /proc, with the run marker. This
# variable makes the library leave the environment alone.
_KEEP_ENVIRON = "SPT_NOENV"
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class CommandError(Exception):
    """A spec that this host cannot run; the text is for the operator."""


@dataclass(frozen=True, slots=True)
class ExecCommand:
    """A program with its command line and environment, ready for execve(2) in `working_dir`.

    `program` is the path to execute. Where another program switches the user, `runs` is the program of the
    agent behind that one, otherwise empty. `uid` is the user id of the agent after the user switch.
    `env_files` holds the digests of the present contents. None for `umask` or `nice`: the daemon's.
    """

    program: str
    argv: list[str]
    working_dir: str
    env: dict[str, str] = field(repr=False)
    uid: int
    runs: str = ""
    env_files: tuple[EnvFile, ...] = ()
    umask: int | None = None
    nice: int | None = None


def inherited_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the daemon's environment without the daemon's private variables.

    Agents and helper programs of the daemon receive this environment.
    """
    env = {name: value for name, value in environ.items() if name not in _NOT_INHERITED}
    env.setdefault("PATH", _DEFAULT_PATH)
    return env


def prepare(spec: ProcessSpec, argv: tuple[str, ...], inherited: Mapping[str, str]) -> ExecCommand:
    """Return the command that runs `argv` in the environment and directory of `spec`.

    Looks the user up with getpwnam(3), and the program along the agent's own PATH; reads the env files.
    Raises CommandError.
    """
    if not argv or not argv[0]:
        raise CommandError("its command is empty; set 'command'")
    working_dir = os.path.abspath(spec.working_dir)
    if not os.path.isdir(working_dir):
        raise CommandError(
            f"its working directory '{working_dir}' does not exist; create it or change 'working-dir'"
        )
    env = environment.passed_on(spec, inherited)
    user, prefix = _switch_of(spec)
    if user is not None:
        env.update(user.variables)
    elif spec.env_inherit is not None:
        env.update(environment.variables_of_daemon(inherited))
    files = _read_files(spec.env_files, None if user is None else user.uid)
    own = {**dict(spec.env), "PWD": working_dir}
    from_files = {name: value for name, value in files.variables.items() if name not in own}
    path = {**env, **from_files, **own}.get("PATH", _DEFAULT_PATH)
    program = _find_program(argv[0], path, working_dir)
    words = list(argv)
    if prefix:
        words = environment.hand_over(words, env, from_files)
    else:
        env.update(from_files)
    env.update(own)
    env.setdefault(_KEEP_ENVIRON, "1")
    uid = os.getuid() if user is None else user.uid
    runs = program if prefix else ""
    if prefix:
        program, words = prefix[0], prefix + words
    return ExecCommand(
        program, words, working_dir, env, uid, runs, files.files, umask=spec.umask, nice=spec.nice
    )


def prepare_probe(
    spec: InstanceSpec, process: ProcessSpec, inherited: Mapping[str, str]
) -> ExecCommand | None:
    """Return the readiness command of an instance; None for an instance without one.

    The command runs with the environment, user and directory of `process`. Raises CommandError.
    """
    if spec.ready is None or not isinstance(spec.ready.check, CommandProbe):
        return None
    try:
        return prepare(process, spec.ready.check.argv, inherited)
    except CommandError as error:
        raise CommandError(f"its readiness command cannot be run: {error}") from error


def prepare_liveness(
    spec: InstanceSpec, process: ProcessSpec, inherited: Mapping[str, str]
) -> ExecCommand | None:
    """Return the liveness command of an instance as `prepare_probe` does; callable from any thread."""
    if spec.alive is None or not isinstance(spec.alive.check, CommandProbe):
        return None
    return prepare(process, spec.alive.check.argv, inherited)


def user_id(user: str) -> int:
    """Return the id of a user given by name or number; the daemon's own for "".

    Raises CommandError.
    """
    try:
        return find_user(user).uid if user else os.getuid()
    except AccountError as error:
        raise CommandError(str(error)) from error


def _switch_of(spec: ProcessSpec) -> tuple[AgentUser | None, list[str]]:
    """Return the agent's user, if the spec names one, and the words that switch to user and group."""
    try:
        user = find_user(spec.user) if spec.user else None
        return user, switch_to(user, spec.group)
    except AccountError as error:
        raise CommandError(str(error)) from error


def _read_files(files: tuple[EnvFile, ...], user: int | None) -> environment.FileVariables:
    try:
        return environment.read_files(files, user)
    except EnvFileError as error:
        raise CommandError(str(error)) from error


def _find_program(name: str, path: str, working_dir: str) -> str:
    """Return the path that execve(2) takes in the working directory, as a shell would find the program."""
    if "/" in name:
        program = os.path.join(working_dir, name)
        if os.path.isfile(program):
            if os.access(program, os.X_OK):
                return name
            raise CommandError(f"'{program}' is not executable; chmod +x it")
        what = "is a directory" if os.path.isdir(program) else "does not exist"
        raise CommandError(f"its program '{program}' {what}; correct 'command'")
    found = _found_before(name, path, working_dir)
    if not _is_program(found):
        found = _find(name, path, working_dir)
    if found:
        return found
    raise CommandError(
        f"its program '{name}' is not found in PATH ({path}); install the program or give its full path"
    )


@functools.lru_cache(maxsize=1024)
def _found_before(name: str, path: str, working_dir: str) -> str:
    # The location at the first launch. Trying the old location first spares a walk along PATH at each
    # launch.
    return _find(name, path, working_dir)


def _find(name: str, path: str, working_dir: str) -> str:
    """Return the path of a program; empty when no folder of `path` has the program."""
    folders = (os.path.join(working_dir, folder, name) for folder in path.split(":"))
    return next(filter(_is_program, folders), "")


def _is_program(file: str) -> bool:
    return os.access(file, os.X_OK) and os.path.isfile(file)
