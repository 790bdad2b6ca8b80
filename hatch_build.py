"""The build hook of the wheel: compiles `spawn.c` where there is a C compiler.

Without one the wheel is pure Python, and the daemon starts agents through a shell.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_FOLDER = Path("server", "hostmanager_server", "linux")
_SOURCE, _LIBRARY = "spawn.c", "_spawn.so"
_FLAGS = ("-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-Wl,--build-id=none")
# `spawn.c` uses only symbols that every C library for Linux has had since 2014.
_TAG = "py3-none-manylinux_2_17_x86_64"


class SpawnLibraryHook(BuildHookInterface[Any]):
    """Adds the library to a wheel, and to the source tree of an editable installation."""

    _scratch: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the library before the wheel is put together."""
        folder = Path(self.root, _FOLDER)
        if version == "editable":
            target = folder / _LIBRARY
        else:
            self._scratch = tempfile.TemporaryDirectory()
            target = Path(self._scratch.name, _LIBRARY)
        why = _compile(folder / _SOURCE, target)
        if why:
            self.app.display_warning(f"agents will start through a shell: {why}")
            return
        build_data["pure_python"] = False
        build_data["tag"] = _TAG
        if version != "editable":
            build_data["force_include"][str(target)] = f"hostmanager_server/linux/{_LIBRARY}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the compiled file, which the wheel contains now."""
        if self._scratch is not None:
            self._scratch.cleanup()


def _compile(source: Path, library: Path) -> str:
    """Compile the library; return the reason where that is impossible, or an empty text."""
    if platform.machine() != "x86_64" or sys.platform != "linux":
        return f"{source.name} is for Linux on x86-64"
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC") or "cc", "gcc", "clang"))), None)
    if compiler is None:
        return "there is no C compiler"
    # A file beside the final one: a running daemon has the old library mapped.
    draft = library.with_suffix(".new")
    done = subprocess.run(
        [compiler, *_FLAGS, "-o", str(draft), str(source)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        draft.unlink(missing_ok=True)
        return f"the compiler failed: {done.stderr.strip().splitlines()[-1:]}"
    draft.replace(library)
    return ""
