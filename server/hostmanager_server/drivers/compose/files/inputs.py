"""Input files of a compose project, found without running compose."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hostmanager.values import dataclass, field

from hostmanager_server.drivers.compose.files.compose_document import load_document

# $NAME, ${NAME}, ${NAME:-default}, ${NAME-default} and their like; $$ is a dollar sign.
_VARIABLE = re.compile(
    r"\$(?:(?P<dollar>\$)|(?P<name>\w+)|\{(?P<braced>\w+)(?:(?P<how>:?[-+?])(?P<word>[^}]*))?\})"
)
_ENV_LINE = re.compile(r"\s*(?:export\s+)?([\w.-]+)\s*[=:]\s*(.*?)\s*$")

MAX_BYTES = 8 * 1024 * 1024  # of an input file
_NULL_DEVICE = os.makedev(1, 3)  # /dev/null, an empty file for compose


@dataclass(slots=True)
class ComposeInputs:
    """The files of a project, and its services that have an `env_file`.

    A file need not exist.
    """

    files: set[Path] = field(default_factory=set)
    with_env_file: set[str] = field(default_factory=set)


def find_inputs(files: Sequence[str], *, environ: Mapping[str, str]) -> ComposeInputs:
    """Return every file that may change the project of these compose files.

    These are the compose files, their included and extended files, and env files. Never raises: an unreadable
    file is an input itself, but its own references stay unknown.
    """
    search = _Search(environ, ComposeInputs())
    folder = Path(files[0]).parent
    search.project([Path(file) for file in files], folder, None)
    return search.found


def input_files(files: Sequence[str], *, environ: Mapping[str, str]) -> frozenset[Path]:
    """Return the files of `find_inputs`."""
    return frozenset(find_inputs(files, environ=environ).files)


def project_variables(files: Sequence[str], *, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that compose puts into these compose files."""
    variables: dict[str, str] = {}
    for file in _env_files(Path(files[0]).parent, environ):
        variables.update(_read_env(file))
    return {**variables, **environ}


def _env_files(folder: Path, environ: Mapping[str, str]) -> list[Path]:
    named = environ.get("COMPOSE_ENV_FILES", "")
    return [folder / name for name in named.split(",") if name] or [folder / ".env"]


class _Search:
    """A search through compose files and their references."""

    def __init__(self, environ: Mapping[str, str], found: ComposeInputs) -> None:
        self._environ = environ
        self.found = found

    def project(self, files: Sequence[Path], folder: Path, env_files: Iterable[Path] | None) -> None:
        """Add files that compose merges; their relative paths are relative to `folder`."""
        if env_files is None:
            env_files = _env_files(folder, self._environ)
        variables: dict[str, str] = {}
        for file in env_files:
            self.found.files.add(file)
            variables.update(_read_env(file))
        variables.update(self._environ)
        for file in files:
            self._file(file, folder, variables)

    def _file(self, file: Path, folder: Path, variables: Mapping[str, str]) -> None:
        if file in self.found.files:
            return
        self.found.files.add(file)
        document = _read_yaml(file)
        if not isinstance(document, dict):
            return
        for include in _as_list(document.get("include")):
            self._include(include, folder, variables)
        services = document.get("services")
        for name, service in services.items() if isinstance(services, dict) else ():
            if isinstance(service, dict):
                self._service(str(name), service, folder, variables)

    def _include(self, include: object, folder: Path, variables: Mapping[str, str]) -> None:
        long = include if isinstance(include, dict) else {"path": include}
        paths = list(_paths(long.get("path"), folder, variables))
        if not paths:
            return
        chosen = next(_paths(long.get("project_directory"), folder, variables), paths[0].parent)
        env_files = list(_paths(long.get("env_file"), folder, variables)) or None
        self.project([path for path in paths if path not in self.found.files], chosen, env_files)

    def _service(
        self, name: str, service: dict[str, Any], folder: Path, variables: Mapping[str, str]
    ) -> None:
        for entry in _as_list(service.get("env_file")):
            self.found.with_env_file.add(name)
            path = entry.get("path") if isinstance(entry, dict) else entry
            self.found.files.update(_paths(path, folder, variables))
        extends = service.get("extends")
        if isinstance(extends, dict):
            for path in _paths(extends.get("file"), folder, variables):
                self._file(path, path.parent, variables)
            extends = extends.get("service")
        if extends in self.found.with_env_file:
            self.found.with_env_file.add(name)


def _as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _paths(value: object, folder: Path, variables: Mapping[str, str]) -> Iterator[Path]:
    for entry in _as_list(value):
        if isinstance(entry, str) and (text := interpolate(entry, variables)):
            yield folder / Path(text).expanduser() if text.startswith("~") else folder / text


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Replace the variables of a text as compose does; unset variables become empty."""

    def value(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        found = variables.get(match["name"] or match["braced"])
        how, word = match["how"] or "", match["word"] or ""
        is_set = bool(found) if how.startswith(":") else found is not None
        if how.endswith("+"):
            return word if is_set else ""
        return found or "" if is_set or not how.endswith("-") else word

    return _VARIABLE.sub(value, text)


def check_inputs(files: Iterable[Path]) -> None:
    """Raise ComposeInputError for a file that would block its reader, or fill its memory.

    A missing file is no error.
    """
    for file in files:
        try:
            info = os.stat(file)
        except (OSError, ValueError):  # compose has the better message
            continue
        if stat.S_ISREG(info.st_mode):
            if info.st_size > MAX_BYTES:
                raise ComposeInputError(_too_large(file))
        elif not stat.S_ISDIR(info.st_mode) and info.st_rdev != _NULL_DEVICE:
            raise ComposeInputError(_not_regular(file))


class ComposeInputError(Exception):
    """An input file must not be read; the text has the reason and a remedy."""


def _not_regular(file: Path) -> str:
    return f"cannot read '{file}': not a regular file; name a regular file"


def _too_large(file: Path) -> str:
    return f"cannot read '{file}': larger than {MAX_BYTES // 2**20} MiB; make the file smaller"


def _read_yaml(file: Path) -> object:
    try:
        return load_document(read_input(file))
    except (OSError, yaml.YAMLError, ValueError):
        return None


def _read_env(file: Path) -> dict[str, str]:
    try:
        lines = read_input(file).decode(errors="replace").splitlines()
    except OSError:
        return {}
    found = (_ENV_LINE.match(line) for line in lines if not line.lstrip().startswith("#"))
    return {match[1]: match[2].strip("'\"") for match in found if match}


def read_input(file: Path) -> bytes:
    """Read a regular file of up to MAX_BYTES; raise OSError for others.

    A pipe or a device in place of the file must not block the daemon, and a huge file not fill its memory.
    """
    with open(file, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(_not_regular(file))
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise OSError(_too_large(file))
    return data
