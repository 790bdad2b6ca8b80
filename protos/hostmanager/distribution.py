"""The version and the entry points of the installed distribution, without `importlib.metadata`.

That module imports the packages email and zipfile, a tenth of the start of a daemon. Where the quick search
finds no single answer, `importlib.metadata` decides.
"""

from __future__ import annotations

import os
import sys

NAME = "hostmanager"


def version() -> str:
    """Return the version of the installed distribution."""
    for line in _lines("METADATA"):
        if line.startswith("Version: "):
            return line.removeprefix("Version: ").strip()
        if not line.strip():
            break  # the end of the headers
    from importlib.metadata import version

    return version(NAME)


def entry_point(group: str, name: str) -> str:
    """Return the object `module:attribute` of an entry point of this distribution; empty if unknown."""
    current = ""
    for line in _lines("entry_points.txt"):
        text = line.strip()
        if text.startswith("["):
            current = text.strip("[]")
        elif current == group and text.partition("=")[0].strip() == name:
            return text.partition("=")[2].strip()
    return ""


def _lines(file: str) -> list[str]:
    """Return the lines of a file of the first distribution on the path, which Python imports."""
    for entry in sys.path:
        try:
            names = [each for each in os.listdir(entry or ".") if _is_metadata(each)]
        except OSError:
            continue  # an archive, or no directory
        if len(names) > 1:
            return []
        if names:
            try:
                with open(os.path.join(entry, names[0], file), encoding="utf-8") as opened:
                    return opened.readlines()
            except OSError:
                return []
    return []


def _is_metadata(name: str) -> bool:
    return name.startswith(f"{NAME}-") and name.endswith(".dist-info")
