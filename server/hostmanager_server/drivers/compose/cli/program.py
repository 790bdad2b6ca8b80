"""The compose program: location, version and command lines."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from hostmanager.values import dataclass

from hostmanager_server.linux import child_signals

_VERSION_TIMEOUT = 20.0  # s for a program to print its version; v1 is slow to start
_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?")

INSTALL = "install Docker Compose (the docker-compose-plugin of Docker, or Debian's docker-compose)"


class ComposeError(Exception):
    """Compose, or a compose file, that is unusable; the operator reads the message."""


@dataclass(frozen=True, slots=True)
class ComposeProgram:
    """A compose program and its version.

    `argv` begins every call: `docker compose`, or the path of a standalone program.
    """

    argv: tuple[str, ...]
    version: tuple[int, ...]

    @property
    def legacy(self) -> bool:
        """Whether the program is Compose v1, in Python and unsupported since 2023."""
        return self.version < (2,)

    def command(self, files: Sequence[str], project: str | None, *args: str, all_profiles: bool) -> list[str]:
        """Return the command line for a call on these files.

        Without `project`, compose derives the project name. With `all_profiles`, services of inactive
        profiles count too; v1 has no such option, and accepts a service that is named on the command line.
        """
        options = [option for file in files for option in ("-f", file)]
        if project is not None:
            options += ["-p", project]
        if all_profiles and not self.legacy:
            options += ["--profile", "*"]
        return [*self.argv, *options, *args]


def find_program(option: str, *, working_dir: Path, environ: Mapping[str, str]) -> ComposeProgram:
    """Return the compose program given by `option`, or the installed program.

    `option` is a path relative to `working_dir`.

    An empty `option` selects the plugin of the docker program, or docker-compose on the PATH. Raises
    ComposeError.
    """
    if option:
        path = working_dir / option
        if not path.is_file() or not os.access(path, os.X_OK):
            why = "is not executable" if path.exists() else "does not exist"
            raise ComposeError(
                f"cannot run compose: {path} {why}; correct --docker-compose-bin, or leave the option out"
            )
        return _identify((str(path),), environ)
    tried = []
    for name, arguments in (("docker", ("compose",)), ("docker-compose", ())):
        path_found = shutil.which(name, path=environ.get("PATH"))
        if path_found is None:
            tried.append(f"there is no program {name!r} on the PATH")
            continue
        try:
            return _identify((path_found, *arguments), environ)
        except ComposeError as error:
            tried.append(str(error))
    raise ComposeError(f"cannot find Docker Compose: {'; '.join(tried)}; {INSTALL}")


def _identify(argv: tuple[str, ...], environ: Mapping[str, str]) -> ComposeProgram:
    shown = " ".join(argv)
    try:
        with child_signals.unblocked():
            done = subprocess.run(
                [*argv, "version", "--short"], env=environ, stdin=subprocess.DEVNULL, capture_output=True,
                text=True, errors="replace", timeout=_VERSION_TIMEOUT, check=False, start_new_session=True,
            )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ComposeError(f"{shown!r} did not print its version in {_VERSION_TIMEOUT:g} s") from error
    except OSError as error:
        raise ComposeError(f"{shown!r} cannot be run: {error.strerror}") from error
    found = _VERSION.match(done.stdout.strip())
    if done.returncode != 0 or found is None:
        output = (done.stderr or done.stdout).strip().splitlines()
        raise ComposeError(f"{shown!r} is no compose program; its output: {(output or ['nothing'])[0]!r}")
    return ComposeProgram(argv, tuple(int(part or 0) for part in found.groups()))
