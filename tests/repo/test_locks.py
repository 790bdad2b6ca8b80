"""Locked requirements: hashes, versions, and agreement with pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
RENEW = "run `make lock`, and commit requirements/ with pyproject.toml"
LOCKS = ("run", "dev", "bench", "docs", "generators", "lowest", "lock")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MACHINES = ("x86_64", "aarch64")


@dataclass(frozen=True, slots=True)
class Pin:
    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        return str(self.requirement.specifier).removeprefix("==")


def text_of(lock: str) -> str:
    return (ROOT / f"requirements/{lock}.txt").read_text()


def pins_of(lock: str) -> list[Pin]:
    """Return the pins of a lock file. Fails on a line of another kind."""
    pins = []
    for line in re.sub(r"\\\n", " ", text_of(lock)).splitlines():
        if not line.lstrip().startswith("#"):
            words, *hashes = line.split(" --hash=")
            pins.append(Pin(Requirement(words), tuple(text.strip() for text in hashes)))
    return pins


def needed(lock: str) -> list[Requirement]:
    """Return the requirements in pyproject.toml that a lock file serves."""
    extras: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
    build: list[str] = PROJECT["build-system"]["requires"]
    run = [*PROJECT["project"]["dependencies"], *build]
    dev = [*run, *extras["test"], *(each for each in extras["dev"] if not each.startswith("hostmanager["))]
    groups: dict[str, list[str]] = PROJECT["dependency-groups"]
    texts = {
        "run": run,
        "dev": dev,
        "bench": [*dev, *extras["bench"]],
        "docs": [*run, *extras["docs"]],
        "generators": groups["generators"],
        "lowest": [*run, *extras["test"]],
        "lock": groups["lock"],
    }[lock]
    return [Requirement(text) for text in texts]


def on(python: str, machine: str) -> dict[str, str]:
    return {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "extra": "",
    }


def chosen(lock: str, environment: dict[str, str]) -> dict[str, str]:
    """Return the version of each package that pip chooses in an environment.

    Fails on a package with two versions.
    """
    versions: dict[str, str] = {}
    for pin in pins_of(lock):
        if pin.requirement.marker is None or pin.requirement.marker.evaluate(environment):
            assert pin.name not in versions, f"requirements/{lock}.txt has {pin.name} twice: {RENEW}"
            versions[pin.name] = pin.version
    return versions


@pytest.mark.parametrize("lock", LOCKS)
def test_everything_is_one_version_with_hashes(lock: str) -> None:
    pins = pins_of(lock)
    assert pins
    for pin in pins:
        assert re.fullmatch(r"==[^,*]+", str(pin.requirement.specifier)), f"{pin.requirement}: {RENEW}"
        assert pin.requirement.url is None
        assert pin.hashes, f"requirements/{lock}.txt has no hash of {pin.name}: {RENEW}"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in pin.hashes)


@pytest.mark.parametrize("lock", LOCKS)
def test_no_lock_names_an_index_or_a_place_on_a_machine(lock: str) -> None:
    assert not re.search(
        r"://|--(extra-)?index-url|--find-links|^-[a-z] |/tmp|/root|/home", text_of(lock), re.MULTILINE
    )


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("lock", LOCKS)
def test_the_locks_are_within_the_bounds_of_pyproject(lock: str, python: str, machine: str) -> None:
    environment = on(python, machine)
    versions = chosen(lock, environment)
    for requirement in needed(lock):
        if requirement.marker is not None and not requirement.marker.evaluate(environment):
            continue
        name = canonicalize_name(requirement.name)
        assert name in versions, f"requirements/{lock}.txt does not have {requirement}: {RENEW}"
        assert requirement.specifier.contains(versions[name], prereleases=True), (
            f"requirements/{lock}.txt has {name} {versions[name]}, not {requirement}: {RENEW}"
        )


@pytest.mark.parametrize("lock", LOCKS)
def test_the_locks_have_nothing_that_pyproject_no_longer_asks_for(lock: str) -> None:
    direct = re.findall(r"^([\w.-]+)==[^#]*?((?:^ +#.*\n)+)", text_of(lock), re.MULTILINE)
    asked = {canonicalize_name(name) for name, via in direct if "pyproject.toml" in via}
    assert asked <= {canonicalize_name(each.name) for each in needed(lock)}, RENEW


def test_the_lowest_versions_are_the_lower_bounds() -> None:
    versions = chosen("lowest", on("3.11", "x86_64"))
    for text in PROJECT["project"]["dependencies"]:
        requirement = Requirement(text)
        if requirement.marker is not None:
            continue
        [bound] = [each.version for each in requirement.specifier if each.operator == ">="]
        locked = versions[canonicalize_name(requirement.name)]
        shortest = f"{bound}.0" if bound.count(".") == 1 else f"{bound}.0.0" if "." not in bound else bound
        assert locked in (bound, shortest), f"the lowest {requirement.name} is {locked}, not {bound}: {RENEW}"


def test_every_dependency_has_an_upper_bound() -> None:
    unbounded = {
        requirement.name
        for requirement in map(Requirement, PROJECT["project"]["dependencies"])
        if requirement.marker is None and not any(each.operator == "<" for each in requirement.specifier)
    }
    assert not unbounded


def test_a_development_install_serves_for_running() -> None:
    environment = on("3.11", "x86_64")
    run, dev = chosen("run", environment), chosen("dev", environment)
    assert run.items() <= dev.items() <= chosen("bench", environment).items(), RENEW
