"""Environment variables of a unit, and its environment files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
from hostmanager.values import dataclass

from hostmanager_server.commands.systemd.unit import UnitError
from hostmanager_server.config.load import with_config_dir
from hostmanager_server.core.secret_names import has_password, is_secret_name
from hostmanager_server.linux.env_file import EnvFileError, read_env_file

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class UnitEnvFiles:
    """Environment files for a unit, and warnings about the access of other users."""

    paths: tuple[str, ...]
    warnings: tuple[str, ...]


def read_env_files_for_unit(files: Sequence[str]) -> UnitEnvFiles:
    """Check the files of `--env-file`; a file with `-` before its path may be missing.

    Raises UnitError for a file that systemd or the daemon could not use.
    """
    paths: list[str] = []
    warnings: list[str] = []
    for given in files:
        name = given.removeprefix("-")
        if not name:
            raise UnitError(f"cannot use --env-file {given!r}: the path is empty; give the path of a file")
        path = str(Path(name).expanduser().absolute())
        try:
            # systemd reads the file as root, also for a daemon of another user: root must own the file.
            warnings += read_env_file(path, optional=name != given).warnings
        except EnvFileError as error:
            raise UnitError(str(error).replace("'env-file'", "--env-file")) from error
        paths.append(path if name == given else f"-{path}")
    return UnitEnvFiles(tuple(paths), tuple(warnings))


def unit_environment(given: Sequence[str], environ: Mapping[str, str], site_file: Path) -> dict[str, str]:
    """Return the variables to write into the unit.

    Raises click's UsageError for a bad `--env`.
    """
    env = {"OCS_CONFIG_DIR": with_config_dir(environ, site_file)["OCS_CONFIG_DIR"]}
    for entry in given:
        name, equals, value = entry.partition("=")
        if not _VARIABLE.fullmatch(name):
            given_as = repr(f"{name}=…" if equals else name)
            raise click.UsageError(
                f"cannot use --env {given_as}: give NAME=VALUE, or the NAME of a variable that is set"
            )
        if not equals and name not in environ:
            raise click.UsageError(f"cannot use --env {name}: the variable is not set; give {name}=VALUE")
        env[name] = value if equals else environ[name]
        if is_secret_name(name) or has_password(env[name]):
            raise click.UsageError(
                f"cannot put {name!r}, which looks like a secret, into a unit that all users may read: "
                "write the variable into a file of root with mode 0600, and give the file with --env-file"
            )
    return env
