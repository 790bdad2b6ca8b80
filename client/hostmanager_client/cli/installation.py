"""The packages that this program needs, and those that are installed instead."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from importlib import metadata


@dataclass(frozen=True, slots=True)
class Unmet:
    """A requirement that the installation does not meet: `needed` in pip's words, by the package `by`."""

    by: str
    needed: str
    installed: str  # a version; empty when the package is missing

    def __str__(self) -> str:
        if not self.installed:
            return f"{self.by} needs {self.needed}, which is not installed"
        return f"{self.by} needs {self.needed}, and {self.installed} is installed"


def unmet_requirements(distribution: str) -> list[Unmet]:
    """List what a distribution and all that it needs require, and do not find."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return [Unmet(distribution, "packaging", "")]
    found: list[Unmet] = []
    seen = {distribution}
    queue = [distribution]
    while queue:
        try:
            package = metadata.distribution(queue.pop())
        except metadata.PackageNotFoundError:  # of the program itself, run from a bare tree
            continue
        by = f"{package.metadata['Name']} {package.version}"
        for requirement in map(Requirement, package.requires or ()):
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            needed = f"{requirement.name}{requirement.specifier}"
            try:
                installed = metadata.version(requirement.name)
            except metadata.PackageNotFoundError:
                found.append(Unmet(by, needed, ""))
                continue
            if not requirement.specifier.contains(installed, prereleases=True):
                found.append(Unmet(by, needed, installed))
            if requirement.name not in seen:
                seen.add(requirement.name)
                queue.append(requirement.name)
    return found


def explain(program: str, error: Exception, unmet: list[Unmet]) -> str:
    """Say that the installation does not fit the program, and what to do.

    Names what the program itself needs, or else what its dependencies need; pip is asked for all of both.
    """
    command = [sys.executable, "-m", "pip", "install", *dict.fromkeys(each.needed for each in unmet)]
    own = [each for each in unmet if each.by.split()[0] == program]
    cause = (str(error).splitlines() or [""])[0].partition(". ")[0]
    return (
        f"cannot run {program}: {'; '.join(map(str, own or unmet))} ({type(error).__name__}: {cause}). "
        f"Install what is needed: {shlex.join(command)}"
    )
