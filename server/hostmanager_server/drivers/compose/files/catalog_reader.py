"""The catalog of managed compose files, and the watch on their input files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hostmanager_server.core.catalog import Catalog, Project
from hostmanager_server.core.event_log import Severity
from hostmanager_server.core.manager_status import Problem
from hostmanager_server.drivers.compose.cli.program import ComposeError, ComposeProgram, find_program
from hostmanager_server.drivers.compose.files.contents import with_contents
from hostmanager_server.drivers.compose.files.file_watch import FileWatch
from hostmanager_server.drivers.compose.files.inputs import input_files
from hostmanager_server.drivers.compose.files.project import read_project
from hostmanager_server.drivers.compose.files.unset_variables import error_of, warnings_of
from hostmanager_server.linux.trusted_paths import Trust, UntrustedError

# As in COMPOSE_FILE: separates the files of one project, each overriding the files before.
SEPARATOR = ":"

# Modification time (ns), size (bytes) and inode of a file; None: no such file.
FileState = tuple[int, int, int] | None


class CatalogReader:
    """Reader of the compose files `files`, given as paths relative to `working_dir`.

    An entry may be several paths joined by a colon, as in COMPOSE_FILE. `program` is a path, or empty; see
    find_program. `trust` says whether other users may have write access to the files (None: the rule for the
    user of this process).

    `load` may be called on any thread, one call at a time. All other methods belong to the supervisor thread,
    after that thread has the catalog.
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
        self._contents: dict[Path, FileState] = {}  # of secrets and configs, which define nothing
        self.program: ComposeProgram | None = None
        self.program_problem = ""

    def load(self) -> Catalog:
        """Read all files and return the catalog.

        An unusable file keeps its last good project.
        """
        inputs = [file for files in self._projects for file in input_files(files, environ=self._environ)]
        # Taken before the files are read, so that a change during the reading is noticed.
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
        known = [project for files in self._projects if (project := self._last_good.get(files))]
        contents = {Path(file) for each in known for s in each.services.values() for file in s.content_files}
        self._contents = {file: _file_state(file) for file in contents}
        projects = tuple(map(with_contents, known))
        return Catalog(self._prefix, projects, _with_duplicate_warnings(projects, problems))

    def _read(self, program: ComposeProgram, files: tuple[str, ...]) -> tuple[Problem, ...]:
        try:
            warnings = self._check([*map(Path, files), *input_files(files, environ=self._environ)])
            project = read_project(program, files, environ=self._environ)
        except ComposeError as error:
            return (error_of(str(error), files, environ=self._environ),)
        self._last_good[files] = project
        unset = warnings_of(project.unset_variables, files, environ=self._environ)
        return (*(Problem(Severity.WARNING, text, files[0]) for text in warnings), *unset)

    def check(self) -> None:
        """Check the permissions of the last catalog's files again.

        Call before compose reads the files again.

        Raises ComposeError for a file that the trust rule refuses.
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
                    f"cannot use '{file}': others may choose what compose runs: {error}"
                ) from error
        return [f"others may choose what compose runs: {each}" for each in found]

    def watch(self, files: FileWatch) -> bool:
        """Watch all files of the last catalog.

        Returns whether a file has changed since the reading.
        """
        states = {**self._contents, **self._file_states}
        files.watch(states)
        return any(_file_state(file) != state for file, state in states.items())


def project_files(entry: str, working_dir: Path) -> tuple[str, ...]:
    """Return the compose files of one entry, as absolute paths.

    An existing path is one file, even if its name contains a separator.
    """
    if SEPARATOR not in entry or (working_dir / entry).exists():
        return (str(working_dir / entry),)
    return tuple(str(working_dir / part) for part in entry.split(SEPARATOR) if part)


def _with_duplicate_warnings(
    projects: Sequence[Project], problems: dict[str, tuple[Problem, ...]]
) -> dict[str, tuple[Problem, ...]]:
    """Return the problems, with a warning for each duplicate service name."""
    first: dict[str, str] = {}
    for project in projects:
        file = project.files[0]
        for name in project.services:
            if name in first:
                text = (
                    f"service {name!r} is also in {first[name]}, and managed from there; rename one of them"
                )
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
