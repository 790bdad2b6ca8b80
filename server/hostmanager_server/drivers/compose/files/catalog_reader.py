"""Reads the managed compose files, and knows when they are to be read again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hostmanager_server.core.catalog import Catalog, Project
from hostmanager_server.core.event_log import Severity
from hostmanager_server.core.manager_status import Problem
from hostmanager_server.drivers.compose.cli.program import ComposeError, ComposeProgram, find_program
from hostmanager_server.drivers.compose.files.file_watch import FileWatch
from hostmanager_server.drivers.compose.files.inputs import input_files
from hostmanager_server.drivers.compose.files.project import read_project
from hostmanager_server.linux.trusted_paths import Trust, UntrustedError

# As in COMPOSE_FILE: several files that make up one project, each overriding the ones before.
SEPARATOR = ":"

# What a file looked like: modification time (ns), size (bytes), inode; None: it was not there.
FileState = tuple[int, int, int] | None


class CatalogReader:
    """Makes a catalog of the compose files `files`, which are paths relative to `working_dir`; an entry may
    be several paths joined by a colon, as in COMPOSE_FILE. `program` is a path, or empty; see find_program.
    `trust`: whether others may be able to write the files (None: as the user of this process demands).

    `load` may be called on any thread, one call at a time; the rest belongs to the supervisor thread, after
    that has the catalog.
    """

    def __init__(
        self,
        files: Sequence[str],
        *,
        prefix: str,
        program: str,
        working_dir: Path,
        environ: Mapping[str, str],
        trust: Trust | None = None,
    ) -> None:
        self._trust = trust or Trust.of_this_process()
        self._projects = [project_files(entry, working_dir) for entry in files]
        self._prefix = prefix
        self._option = program
        self._working_dir = working_dir
        self._environ = environ
        self._last_good: dict[tuple[str, ...], Project] = {}
        self._file_states: dict[Path, FileState] = {}
        self.program: ComposeProgram | None = None
        self.program_problem = ""

    def load(self) -> Catalog:
        """What the files say now. A file that cannot be used keeps the project that it last had."""
        inputs = [file for files in self._projects for file in input_files(files, environ=self._environ)]
        # Taken before the files are read: what changes meanwhile differs from it.
        self._file_states = {file: _file_state(file) for file in inputs}
        problems: dict[str, tuple[Problem, ...]] = {}
        try:
            program = find_program(self._option, working_dir=self._working_dir, environ=self._environ)
        except ComposeError as error:
            self.program, self.program_problem = None, str(error)
            for files in self._projects:
                problems[files[0]] = (Problem(Severity.ERROR, str(error), files[0]),)
        else:
            self.program, self.program_problem = program, ""
            for files in self._projects:
                problems[files[0]] = self._read(program, files)
        projects = tuple(project for files in self._projects if (project := self._last_good.get(files)))
        return Catalog(self._prefix, projects, _with_duplicate_warnings(projects, problems))

    def _read(self, program: ComposeProgram, files: tuple[str, ...]) -> tuple[Problem, ...]:
        try:
            warnings = self._check([*map(Path, files), *input_files(files, environ=self._environ)])
            self._last_good[files] = read_project(program, files, environ=self._environ)
        except ComposeError as error:
            return (Problem(Severity.ERROR, str(error), files[0]),)
        return tuple(Problem(Severity.WARNING, text, files[0]) for text in warnings)

    def check(self) -> None:
        """Check again who may change what the last catalog was read from, before compose reads it again.

        Raises ComposeError where that is refused.
        """
        if self._trust.refuses:
            self._check(self._file_states)

    def _check(self, files: Iterable[Path]) -> list[str]:
        found: dict[str, None] = {}
        for file in files:
            try:
                found.update(dict.fromkeys(self._trust.check(file)))
            except (UntrustedError, OSError) as error:
                raise ComposeError(
                    f"cannot use '{file}', as others may choose what compose runs: {error}"
                ) from error
        return [f"others may choose what compose runs: {each}" for each in found]

    def watch(self, files: FileWatch) -> bool:
        """Watch all that the last catalog was read from. Whether something has changed since it was read."""
        states = self._file_states
        files.watch(states)
        return any(_file_state(file) != state for file, state in states.items())


def project_files(entry: str, working_dir: Path) -> tuple[str, ...]:
    """The compose files of one entry, absolute. A path that is there is one file, whatever is in its name."""
    if SEPARATOR not in entry or (working_dir / entry).exists():
        return (str(working_dir / entry),)
    return tuple(str(working_dir / part) for part in entry.split(SEPARATOR) if part)


def _with_duplicate_warnings(
    projects: Sequence[Project], problems: dict[str, tuple[Problem, ...]]
) -> dict[str, tuple[Problem, ...]]:
    """The problems, with a warning for each service whose name another file has taken."""
    first: dict[str, str] = {}
    for project in projects:
        file = project.files[0]
        for name in project.services:
            if name in first:
                text = f"service {name!r} is in {first[name]}, too, and managed as that; rename one of them"
                problems[file] = (*problems.get(file, ()), Problem(Severity.WARNING, text, file))
            else:
                first[name] = file
    return problems


def _file_state(file: Path) -> FileState:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
