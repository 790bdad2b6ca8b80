"""Environments of agents: inherited variables, env files and user variables."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Mapping

from hostmanager.values import dataclass, replace

from hostmanager_server.core.spec import EnvFile, ProcessSpec
from hostmanager_server.drivers.exec.agent_user import find_user
from hostmanager_server.linux.env_file import CARRIER, read_env_file

# Variables that every agent inherits from the daemon: paths of programs and of the site's files, the
# language, and how Python writes output. SPT_NOENV keeps the markers of an agent that sets its process
# title. None of these variables holds a secret.
BASE = ("LANG", "LANGUAGE", "LC_*", "OCS_CONFIG_DIR", "PATH", "PYTHONUNBUFFERED", "SPT_NOENV", "TZ")
_OF_USER = ("HOME", "LOGNAME", "SHELL", "USER")
_SHELL = "/bin/sh"


@dataclass(frozen=True, slots=True)
class FileVariables:
    """The present contents of an agent's env files.

    `files` are the files with their digests, `variables` all variables.
    """

    files: tuple[EnvFile, ...]
    variables: Mapping[str, str]


def passed_on(spec: ProcessSpec, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the part of the daemon's environment that an agent gets."""
    if spec.env_inherit is None and not spec.user:
        return dict(inherited)
    patterns = (*BASE, *(spec.env_inherit or ()))
    return {name: value for name, value in inherited.items() if _matches(name, patterns)}


def variables_of_daemon(inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the user variables of the daemon's own user.

    For a user without an entry in the user database, return the variables that the daemon was started with.
    """
    own = find_user(str(os.geteuid()))
    return own.variables if own.known else {name: inherited[name] for name in _OF_USER if name in inherited}


def read_files(files: Iterable[EnvFile], user: int | None) -> FileVariables:
    """Read the env files of an agent that runs as `user` (None: the daemon's user).

    Later files override earlier ones. Raises EnvFileError.
    """
    read: list[EnvFile] = []
    variables: dict[str, str] = {}
    for file in files:
        content = read_env_file(file.path, user, optional=file.optional)
        read.append(replace(file, digest=content.digest))
        variables.update(content.variables)
    return FileVariables(tuple(read), variables)


def hand_over(argv: list[str], env: dict[str, str], variables: Mapping[str, str]) -> list[str]:
    """Return the command that runs `argv` with these variables behind a root program.

    The agent's user may write the env file, while root runs the gate and setpriv: a LD_PRELOAD in the file
    must reach neither. Therefore the environment carries each variable under a neutral name, until a shell
    that runs as the user restores the real names. Values never appear on a command line, because every user
    can read command lines. `env` receives the carrier variables.
    """
    if not variables:
        return argv
    carriers = []
    for number, (name, value) in enumerate(variables.items()):
        carriers.append(f"{CARRIER}{number}")
        env[carriers[-1]] = f"{name}={value}"
    exported = " ".join(f'"${name}"' for name in carriers)
    return [_SHELL, "-c", f'export {exported}; unset {" ".join(carriers)}; exec "$@"', "env", *argv]


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
