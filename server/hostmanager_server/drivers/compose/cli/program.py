"""The compose program: where it is, which version it has, and how it is called."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_VERSION_TIMEOUT = 20.0  # s for a program to say its version; v1 is slow to start
_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?")

INSTALL = "install Docker Compose (the docker-compose-plugin of Docker, or Debian's docker-compose)"


class ComposeError(Exception):
    """Compose cannot be used, or not with these files; the message is for the operator."""


@dataclass(frozen=True, slots=True)
class ComposeProgram:
    """`argv` begins every call: `docker compose`, or the path of a standalone program."""

    argv: tuple[str, ...]
    version: tuple[int, ...]

    @property
    def legacy(self) -> bool:
        """Compose v1, which is written in Python and went out of support in 2023."""
        return self.version < (2,)

    def command(self, files: Sequence[str], project: str | None, *args: str, all_profiles: bool) -> list[str]:
        """The command line for a call on these files. `project` None: as compose names it. `all_profiles`:
        services count whatever their profiles are; v1 knows none of that, and lets a named service be."""
        options = [option for file in files for option in ("-f", file)]
        if project is not None:
            options += ["-p", project]
        if all_profiles and not self.legacy:
            options += ["--profile", "*"]
        return [*self.argv, *options, *args]


def find_program(option: str, *, working_dir: Path, environ: Mapping[str, str]) -> ComposeProgram:
    """The compose program to use: `option`, a path relative to `working_dir`; when that is empty the plugin
    of the docker program, else docker-compose on the PATH. Raises ComposeError."""
    if option:
        path = working_dir / option
        if not path.is_file() or not os.access(path, os.X_OK):
            what = "is not executable" if path.exists() else "does not exist"
            raise ComposeError(
                f"the compose program {path} {what}: correct --docker-compose-bin, or leave it out"
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
        done = subprocess.run(
            [*argv, "version", "--short"], env=environ, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, errors="replace", timeout=_VERSION_TIMEOUT, check=False, start_new_session=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ComposeError(f"{shown!r} does not say its version within {_VERSION_TIMEOUT:g} s") from error
    except OSError as error:
        raise ComposeError(f"{shown!r} cannot be run: {error.strerror}") from error
    found = _VERSION.match(done.stdout.strip())
    if done.returncode != 0 or found is None:
        output = (done.stderr or done.stdout).strip().splitlines()
        raise ComposeError(f"{shown!r} is no compose program: it says {(output or ['nothing'])[0]!r}")
    return ComposeProgram(argv, tuple(int(part or 0) for part in found.groups()))
