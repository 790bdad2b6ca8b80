"""What to exec for a process spec: the command line, environment and user, checked beforehand."""

from __future__ import annotations

import functools
import os
import pwd
import shutil
from collections.abc import Mapping
from dataclasses import dataclass

from hostmanager_server import failpoints, notify
from hostmanager_server.core.spec import CommandProbe, InstanceSpec, ProcessSpec

from . import gate

RUN_MARKER = "HOSTMANAGER_RUN"
INSTANCE_MARKER = "HOSTMANAGER_INSTANCE_ID"

# What the daemon sets for its own libraries, what the service manager tells it alone, and the marker of a
# manager that may be above it.
_NOT_INHERITED = notify.OF_ONE_PROCESS | {
    "GRPC_ENABLE_FORK_SUPPORT", failpoints.VARIABLE, RUN_MARKER, INSTANCE_MARKER,
}  # fmt: skip
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class CommandError(Exception):
    """A spec that cannot be run on this host; its text is for the operator."""


@dataclass(frozen=True, slots=True)
class Command:
    """What the gate is to exec; `uid` is the user id that it has then."""

    argv: list[str]
    working_dir: str
    env: dict[str, str]
    uid: int


def inherited_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The part of the daemon's environment that agents, and programs that help the daemon, get."""
    env = {name: value for name, value in environ.items() if name not in _NOT_INHERITED}
    env.setdefault("PATH", _DEFAULT_PATH)
    return env


def prepare(spec: ProcessSpec, argv: tuple[str, ...], inherited: Mapping[str, str]) -> Command:
    """How to run `argv` in the surroundings of `spec`. Raises CommandError.

    Looks the user up with getpwnam, and the program along the agent's own PATH.
    """
    if not argv or not argv[0]:
        raise CommandError("its command is empty; give it one")
    working_dir = os.path.abspath(spec.working_dir)
    if not os.path.isdir(working_dir):
        raise CommandError(
            f"its working directory '{working_dir}' does not exist; create it or change 'working-dir'"
        )
    env = dict(inherited)
    prefix = _as_user(spec.user, env) if spec.user else []
    env.update(spec.env)
    env["PWD"] = working_dir
    _check_program(argv[0], env.get("PATH", _DEFAULT_PATH), working_dir)
    return Command(prefix + gate.shell_safe(list(argv), env), working_dir, env, user_id(spec.user))


def prepare_probe(spec: InstanceSpec, process: ProcessSpec, inherited: Mapping[str, str]) -> Command | None:
    """How to run its readiness command, if it has one, in the surroundings of `process`. Raises
    CommandError."""
    if spec.ready is None or not isinstance(spec.ready.check, CommandProbe):
        return None
    try:
        return prepare(process, spec.ready.check.argv, inherited)
    except CommandError as error:
        raise CommandError(f"its readiness command cannot be run: {error}") from error


def user_id(user: str) -> int:
    """Return the id of a user, given by name or id; that of the daemon for an empty one. Raises
    CommandError."""
    return _user(user).pw_uid if user else os.getuid()


def _user(user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        raise CommandError(f"there is no user '{user}' on this host; create it or change 'user'") from None


def _as_user(user: str, env: dict[str, str]) -> list[str]:
    entry = _user(user)
    env.update(HOME=entry.pw_dir, USER=entry.pw_name, LOGNAME=entry.pw_name)
    if os.geteuid() == entry.pw_uid == os.getuid():
        return []
    if os.geteuid() != 0:
        raise CommandError(
            f"it is to run as '{entry.pw_name}', and the daemon, which is not root, cannot switch users; "
            "run the daemon as root or remove 'user'"
        )
    setpriv = shutil.which("setpriv", path=_DEFAULT_PATH)
    if setpriv is None:
        raise CommandError(f"running it as '{entry.pw_name}' needs the program 'setpriv'; install util-linux")
    return [setpriv, f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--init-groups", "--"]


def _check_program(name: str, path: str, working_dir: str) -> None:
    if "/" in name:
        program = os.path.join(working_dir, name)
        if os.path.isfile(program):
            if os.access(program, os.X_OK):
                return
            raise CommandError(f"'{program}' is not executable; chmod +x it")
        what = "is a directory" if os.path.isdir(program) else "does not exist"
        raise CommandError(f"its program '{program}' {what}; correct 'command'")
    if _is_program(_found_before(name, path, working_dir)) or _is_program(_find(name, path, working_dir)):
        return
    raise CommandError(
        f"its program '{name}' is not found in PATH ({path}); install it or give its full path"
    )


@functools.lru_cache(maxsize=1024)
def _found_before(name: str, path: str, working_dir: str) -> str:
    # Where it was when it was first asked for; looking there first spares a walk along PATH at each launch.
    return _find(name, path, working_dir)


def _find(name: str, path: str, working_dir: str) -> str:
    """The program's file; empty when there is none."""
    folders = (os.path.join(working_dir, folder, name) for folder in path.split(":"))
    return next(filter(_is_program, folders), "")


def _is_program(file: str) -> bool:
    return os.access(file, os.X_OK) and os.path.isfile(file)
