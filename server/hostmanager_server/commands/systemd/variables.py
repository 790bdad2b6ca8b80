"""The variables that a unit gives the daemon: in the unit, or in files that only root reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from hostmanager_server.commands.systemd.unit import UnitError
from hostmanager_server.config.secrets import has_password, is_secret_name
from hostmanager_server.linux.env_file import EnvFileError, read_env_file

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class GivenFiles:
    """Files of variables for a unit to name, and what others may do with them."""

    paths: tuple[str, ...]
    warnings: tuple[str, ...]


def read_given(files: Sequence[str]) -> GivenFiles:
    """Check the files of `--env-file`; `-` before a path: it may be missing. Raises UnitError."""
    paths: list[str] = []
    warnings: list[str] = []
    for given in files:
        name = given.removeprefix("-")
        if not name:
            raise UnitError(f"cannot use --env-file {given!r}: it names no file")
        path = str(Path(name).expanduser().absolute())
        try:
            # systemd reads the file as root, also for a daemon of another user: the file must be root's.
            warnings += read_env_file(path, optional=name != given).warnings
        except EnvFileError as error:
            raise UnitError(str(error).replace("'env-file'", "--env-file")) from error
        paths.append(path if name == given else f"-{path}")
    return GivenFiles(tuple(paths), tuple(warnings))


def unit_environment(given: Sequence[str], environ: Mapping[str, str], site_file: Path) -> dict[str, str]:
    """Return the variables that stand in the unit. Raises click's UsageError."""
    env = {"OCS_CONFIG_DIR": environ.get("OCS_CONFIG_DIR") or str(site_file.parent)}
    for entry in given:
        name, equals, value = entry.partition("=")
        if not _VARIABLE.fullmatch(name):
            given_as = repr(f"{name}=…" if equals else name)
            raise click.UsageError(
                f"--env {given_as}: give NAME=VALUE, or the NAME of a variable that is set"
            )
        if not equals and name not in environ:
            raise click.UsageError(f"--env {name}: it is not set; give {name}=VALUE")
        env[name] = value if equals else environ[name]
        if is_secret_name(name) or has_password(env[name]):
            raise click.UsageError(
                f"cannot put {name!r}, which looks like a secret, into a unit that everybody may read: "
                "write it into a file of root's with mode 0600, and give that with --env-file"
            )
    return env
