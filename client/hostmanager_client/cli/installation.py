"""Checks of the installed packages against the requirements of this program."""

from __future__ import annotations

import shlex
import sys
from importlib import metadata

from hostmanager.values import dataclass


@dataclass(frozen=True, slots=True)
class Unmet:
    """A requirement of the package `by` without a match; `needed` is in the syntax of pip."""

    by: str
    needed: str
    installed: str  # a version; empty when the package is missing

    def __str__(self) -> str:
        if not self.installed:
            return f"{self.by} needs {self.needed}, which is not installed"
        return f"{self.by} needs {self.needed}, and {self.installed} is installed"


def unmet_requirements(distribution: str) -> list[Unmet]:
    """Return the unmet requirements of a distribution and of its dependencies."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return [Unmet(distribution, "packaging", "")]
    unmet: list[Unmet] = []
    visited = {distribution}
    queue = [distribution]
    while queue:
        try:
            package = metadata.distribution(queue.pop())
        except metadata.PackageNotFoundError:  # the program runs from a source tree
            continue
        by = f"{package.metadata['Name']} {package.version}"
        for requirement in map(Requirement, package.requires or ()):
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            needed = f"{requirement.name}{requirement.specifier}"
            try:
                installed = metadata.version(requirement.name)
            except metadata.PackageNotFoundError:
                unmet.append(Unmet(by, needed, ""))
                continue
            if not requirement.specifier.contains(installed, prereleases=True):
                unmet.append(Unmet(by, needed, installed))
            if requirement.name not in visited:
                visited.add(requirement.name)
                queue.append(requirement.name)
    return unmet


def describe_unmet(program: str, error: Exception, unmet: list[Unmet]) -> str:
    """Return the error message for unmet requirements, with a pip command as the remedy.

    The message names the requirements of the program, or else those of its dependencies; the pip command
    installs both.
    """
    command = [sys.executable, "-m", "pip", "install", *dict.fromkeys(each.needed for each in unmet)]
    own = [each for each in unmet if each.by.split()[0] == program]
    cause = (str(error).splitlines() or [""])[0].partition(". ")[0]
    return (
        f"cannot run {program}: {'; '.join(map(str, own or unmet))} ({type(error).__name__}: {cause}). "
        f"Install the missing packages: {shlex.join(command)}"
    )
