"""Variables of compose files without a value: names, places and remedies."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from hostmanager_server.core.event_log import Severity
from hostmanager_server.core.manager_status import Problem
from hostmanager_server.drivers.compose.files.inputs import input_files, read_input

_UNSET = re.compile(r'(?:The )\\?"?(\w+)\\?"? variable is not set\.')
_REQUIRED = re.compile(r"required variable (\w+) is missing a value")


def unset_variables(output: str) -> tuple[str, ...]:
    """Return the variables that compose's warnings call unset, sorted."""
    return tuple(sorted({match[1] for match in _UNSET.finditer(output)}))


def warnings_of(
    variables: Sequence[str], files: Sequence[str], *, environ: Mapping[str, str]
) -> list[Problem]:
    """Return a warning for each unset variable, with its place."""
    return [
        _problem(
            name, files, environ, Severity.WARNING,
            f"the variable {name} is not set and counts as empty; {_remedy(name, files)}, "
            f"or give a default (${{{name}:-}})",
        )
        for name in variables
    ]  # fmt: skip


def error_of(message: str, files: Sequence[str], *, environ: Mapping[str, str]) -> Problem:
    """Return compose's error as a problem, with the place of a missing variable."""
    match = _REQUIRED.search(message)
    if match is None:
        return Problem(Severity.ERROR, message, files[0])
    name = match[1]
    return _problem(name, files, environ, Severity.ERROR, f"{message}; {_remedy(name, files)}")


def _remedy(name: str, files: Sequence[str]) -> str:
    return f"set {name} in {Path(files[0]).parent / '.env'} or in the environment of the daemon"


def _problem(
    name: str, files: Sequence[str], environ: Mapping[str, str], severity: Severity, text: str
) -> Problem:
    pattern = re.compile(rf"(?<!\$)(?:\$\$)*\$\{{?{name}\b".encode())
    others = sorted(map(str, input_files(files, environ=environ) - {Path(file) for file in files}))
    for file in (*files, *others):
        try:
            lines = read_input(Path(file)).splitlines()
        except OSError:
            continue
        for number, line in enumerate(lines, 1):
            if (found := pattern.search(line)) is not None:
                column = len(line[: found.start()].decode(errors="replace")) + 1
                return Problem(severity, text, file, number, column)
    return Problem(severity, text, files[0])
