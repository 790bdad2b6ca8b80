"""The environment of an agent: what of the daemon's reaches it, its files of variables, its own user."""

from __future__ import annotations

import fnmatch
import os
import pwd
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from hostmanager_server.core.spec import EnvFile, ProcessSpec
from hostmanager_server.linux.env_file import CARRIER, read_env_file

# What every agent gets of the daemon's environment: where programs, texts and the site's files are, and how
# Python writes output. SPT_NOENV keeps the markers of an agent that sets its title. None of it is a secret.
BASE = ("LANG", "LANGUAGE", "LC_*", "OCS_CONFIG_DIR", "PATH", "PYTHONUNBUFFERED", "SPT_NOENV", "TZ")
_OF_USER = ("HOME", "LOGNAME", "SHELL", "USER")
_SHELL = "/bin/sh"


@dataclass(frozen=True, slots=True)
class FileVariables:
    """What the env-files of an agent say now: the files with their digests, and all variables."""

    files: tuple[EnvFile, ...]
    variables: Mapping[str, str]


def passed_on(spec: ProcessSpec, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the part of the daemon's environment that an agent gets."""
    if spec.env_inherit is None and not spec.user:
        return dict(inherited)
    patterns = (*BASE, *(spec.env_inherit or ()))
    return {name: value for name, value in inherited.items() if _matches(name, patterns)}


def variables_of(user: pwd.struct_passwd) -> dict[str, str]:
    """Return the variables by which programs know the user that they run as."""
    return {
        "HOME": user.pw_dir, "LOGNAME": user.pw_name, "SHELL": user.pw_shell or _SHELL, "USER": user.pw_name,
    }  # fmt: skip


def variables_of_daemon(inherited: Mapping[str, str]) -> dict[str, str]:
    """Return those of the daemon's own user; of one without an entry, those that the daemon was given."""
    try:
        return variables_of(pwd.getpwuid(os.geteuid()))
    except KeyError:
        return {name: inherited[name] for name in _OF_USER if name in inherited}


def read_files(files: Iterable[EnvFile], user: int | None) -> FileVariables:
    """Read env-files for an agent that runs as this user (None: the daemon's own). Raises EnvFileError."""
    read: list[EnvFile] = []
    variables: dict[str, str] = {}
    for file in files:
        content = read_env_file(file.path, user, optional=file.optional)
        read.append(replace(file, digest=content.digest))
        variables.update(content.variables)
    return FileVariables(tuple(read), variables)


def hand_over(argv: list[str], env: dict[str, str], variables: Mapping[str, str]) -> list[str]:
    """Return the command that runs `argv` with these variables, for a program that is started as root.

    The agent's user may write its env-file, and root runs the gate and setpriv: a LD_PRELOAD there must reach
    neither. So the environment carries each variable under a name that means nothing, until a shell that runs
    as the user gives it its own. Values are never words of a command line, which everybody may read.
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
