"""Derived apt sources and refusals of `scripts/setup-engine`."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts/setup-engine"
WITH_ENGINE = ROOT / "scripts/with-engine"
NOBODY = ("--reuid=65534", "--regid=65534", "--clear-groups")


def run(*arguments: str, as_nobody: bool = False, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
    # The script goes in as text, since the other user may have no access to its folder.
    command = ["bash", "-c", SCRIPT.read_text(), "scripts/setup-engine", *arguments]
    return subprocess.run(
        ["setpriv", *NOBODY, *command] if as_nobody else command,
        cwd="/",
        env=kept | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def apt(tmp_path: Path) -> Path:
    """Return the folder of an empty apt configuration of Debian 12."""
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "os-release").write_text('ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n')
    return tmp_path


def mirror(apt: Path) -> list[dict[str, str]]:
    """Return the derived sources as fields with lower-case names."""
    done = run("mirror", APT_SOURCES=str(apt), OS_RELEASE=str(apt / "os-release"))
    assert done.returncode == 0, done.stdout
    stanzas: list[dict[str, str]] = []
    for stanza in done.stdout.strip().split("\n\n"):
        fields: dict[str, str] = {}
        for line in filter(None, stanza.splitlines()):
            if line.startswith(" "):
                fields[list(fields)[-1]] += "\n" + line
            else:
                name, _, value = line.partition(":")
                fields[name.lower()] = value.strip()
        if fields:
            stanzas.append(fields)
    return stanzas


def trixie(uris: str, **fields: str) -> dict[str, str]:
    return {"types": "deb", "uris": uris, "suites": "trixie", "components": "main"} | fields


def test_help_names_the_subcommands() -> None:
    done = run("--help")
    assert done.returncode == 0
    for command in ("start", "install", "stop", "mirror"):
        assert f"\n  {command} " in done.stdout


def test_an_unknown_subcommand_is_refused_with_the_usage() -> None:
    done = run("begin")
    assert done.returncode == 2
    assert done.stdout.startswith("usage: scripts/setup-engine")


def test_a_classic_source_gives_the_same_mirror_with_the_release_that_has_compose(apt: Path) -> None:
    (apt / "sources.list").write_text(
        "# deb http://commented.test/debian bookworm main\n"
        "deb http://mirror.test/debian bookworm main contrib # the usual one\n"
        "deb-src http://source.test/debian bookworm main\n"
    )
    assert mirror(apt) == [trixie("http://mirror.test/debian")]


def test_the_options_of_a_classic_source_are_kept_but_for_its_architectures(apt: Path) -> None:
    (apt / "sources.list.d/own.list").write_text(
        "deb [ arch=amd64,i386 signed-by=/keys/one.gpg,/keys/two.gpg trusted=yes ]"
        " https://mirror.test/debian/ bookworm main\n"
    )
    assert mirror(apt) == [
        trixie(
            "https://mirror.test/debian/", **{"signed-by": "/keys/one.gpg /keys/two.gpg", "trusted": "yes"}
        )
    ]


def test_a_deb822_source_gives_the_same_mirror_with_the_release_that_has_compose(apt: Path) -> None:
    (apt / "sources.list.d/debian.sources").write_text(
        "Types: deb deb-src\n"
        "# http://snapshot.test/archive\n"
        "URIs: http://mirror.test/debian\n"
        "Suites: bookworm bookworm-updates\n"
        "Components: main non-free\n"
        "Architectures: amd64\n"
        "Signed-By: /keys/debian.gpg\n"
        "\n"
        "Types: deb\n"
        "URIs: http://mirror.test/debian-security\n"
        "Suites: bookworm-security\n"
        "Components: main\n"
    )
    assert mirror(apt) == [trixie("http://mirror.test/debian", **{"signed-by": "/keys/debian.gpg"})]


def test_fields_of_several_lines_are_kept_whole(apt: Path) -> None:
    key = "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDMEY865\n -----END PGP PUBLIC KEY BLOCK-----"
    (apt / "sources.list.d/debian.sources").write_text(
        "types: deb\nuris: http://one.test/debian\n http://two.test/debian\n"
        f"suites:\n bookworm\n bookworm-updates\ncomponents: main\nsigned-by:{key}\n"
    )
    assert mirror(apt) == [trixie("http://one.test/debian\n http://two.test/debian", **{"signed-by": key})]


def test_disabled_sources_and_those_of_other_releases_are_ignored(apt: Path) -> None:
    (apt / "sources.list").write_text(
        "deb http://other.test/debian sid main\n"
        "deb http://backports.test/debian bookworm-backports main\n"
        "deb http://vendor.test/debian bookworm stable\n"
        "deb cdrom:[Debian GNU/Linux 12]/ bookworm main\n"
        "deb http://mirror.test/debian bookworm contrib # without main\n"
    )
    (apt / "sources.list.d/off.sources").write_text(
        "Enabled: no\nTypes: deb\nURIs: http://off.test/debian\nSuites: bookworm\nComponents: main\n"
    )
    assert mirror(apt) == []


def test_a_source_that_names_its_suite_by_role_counts_too(apt: Path) -> None:
    (apt / "sources.list").write_text("deb http://mirror.test/debian oldstable main\n")
    assert mirror(apt) == [trixie("http://mirror.test/debian")]


def test_all_files_are_read_the_main_one_first(apt: Path) -> None:
    (apt / "sources.list").write_text("deb http://first.test/debian bookworm main\n")
    (apt / "sources.list.d/b.list").write_text("deb http://second.test/debian bookworm main\n")
    (apt / "sources.list.d/c.sources").write_text(
        "Types: deb\nURIs: http://third.test/debian\nSuites: bookworm\nComponents: main"
    )
    (apt / "sources.list.d/d.sources").write_text(
        "Types: deb\nURIs: http://fourth.test/debian\nSuites: bookworm\nComponents: main\n"
    )
    assert [source["uris"] for source in mirror(apt)] == [
        "http://first.test/debian",
        "http://second.test/debian",
        "http://third.test/debian",
        "http://fourth.test/debian",
    ]


def test_a_release_that_has_compose_itself_is_its_own_source(apt: Path) -> None:
    (apt / "os-release").write_text("VERSION_CODENAME=forky\n")
    (apt / "sources.list").write_text("deb http://mirror.test/debian forky main\n")
    assert [source["suites"] for source in mirror(apt)] == ["forky"]


def test_without_any_source_the_message_names_the_searched_folder(apt: Path) -> None:
    done = run("mirror", APT_SOURCES=str(apt), OS_RELEASE=str(apt / "os-release"))
    assert done.returncode == 1
    assert f"no sources.list and no sources.list.d in {apt}" in done.stdout


def test_a_release_without_a_name_is_refused(apt: Path) -> None:
    (apt / "os-release").write_text("ID=debian\n")
    done = run("mirror", APT_SOURCES=str(apt), OS_RELEASE=str(apt / "os-release"))
    assert done.returncode == 1
    assert "has no VERSION_CODENAME" in done.stdout


def assert_lists_manual_steps(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 1
    for needed in ("as root", "dockerd", "docker-registry", "busybox", "iptables", "Compose v2 plugin"):
        assert needed in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can switch users")
def test_an_ordinary_user_is_told_what_to_install_by_hand() -> None:
    done = run("start", as_nobody=True, HOME="/nonexistent")
    assert_lists_manual_steps(done)


def test_another_system_than_debian_is_told_what_to_install_by_hand(tmp_path: Path) -> None:
    program(tmp_path / "docker", "exit 1")
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = run("start", PATH=path, OS_RELEASE=str(tmp_path / "no-os-release"))
    assert_lists_manual_steps(done)
    assert "this is missing: docker compose" in done.stdout


def test_an_engine_elsewhere_is_not_replaced_by_one_here(tmp_path: Path) -> None:
    fakes = {
        "docker": '[ "$1" = compose ]',  # has the plugin, and reaches no engine
        "dockerd": "exit 1",
        "docker-registry": "exit 1",
        "iptables": "exit 1",
        "dpkg-query": "printf installed",
        "id": "echo 1000",
    }
    for name, body in fakes.items():
        program(tmp_path / name, body)
    done = run("start", PATH=f"{tmp_path}:{os.environ['PATH']}", DOCKER_HOST="tcp://elsewhere.test:2376")
    assert done.returncode == 1
    assert "no engine answers at DOCKER_HOST=tcp://elsewhere.test:2376" in done.stdout


def test_the_source_of_another_release_keeps_mirror_and_keys(apt: Path) -> None:
    (apt / "sources.list").write_text("deb [signed-by=/k.gpg] http://mirror/debian bookworm main\n")
    done = run("mirror", "testing", APT_SOURCES=str(apt), OS_RELEASE=str(apt / "os-release"))
    assert done.returncode == 0, done.stdout
    assert {"Suites: testing", "URIs: http://mirror/debian", "signed-by: /k.gpg"} <= set(
        done.stdout.splitlines()
    )


@pytest.mark.parametrize("arguments", [[], ["newest"], ["nosuch", "true"]])
def test_an_unknown_engine_or_no_command_shows_the_usage(arguments: list[str]) -> None:
    done = subprocess.run([WITH_ENGINE, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: scripts/with-engine")


@pytest.mark.parametrize(("ci", "code"), [("", 0), ("true", 1)])
def test_without_podman_its_tests_are_skipped_with_the_reason(tmp_path: Path, ci: str, code: int) -> None:
    for name in ("bash", "env", "dirname", "id"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    done = subprocess.run(
        [WITH_ENGINE, "podman", "true"],
        env={"PATH": str(tmp_path), "CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert done.stderr.startswith("skipped: ")
