"""Tests of compose projects, as the real compose reads them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hostmanager_server.core.catalog import Project
from hostmanager_server.core.spec import PullPolicy
from hostmanager_server.drivers.compose.cli.program import ComposeError, ComposeProgram, find_program
from hostmanager_server.drivers.compose.files.project import read_project

from tests.docker_engine import MakeProject, RealEngine

IMAGE = {"image": "lab/agent:1"}


@pytest.fixture(scope="session")
def v2(engine: RealEngine) -> ComposeProgram:
    return find_program("", working_dir=Path("/"), environ=engine.environment)


@pytest.fixture(scope="session")
def v1(compose_v1: Path, engine: RealEngine) -> ComposeProgram:
    return find_program(str(compose_v1), working_dir=Path("/"), environ=engine.environment)


def write(folder: Path, file_name: str = "compose.yaml", /, **top: Any) -> str:
    file = folder / file_name
    file.write_text(json.dumps(top))
    return str(file)


def read(program: ComposeProgram, *files: str, **environ: str) -> Project:
    return read_project(program, files, environ={"PATH": os.environ["PATH"], **environ})


def test_the_settings_of_services_are_read(v2: ComposeProgram, tmp_path: Path) -> None:
    folder = tmp_path / "My.Lab"
    folder.mkdir()
    services = {
        "plain": IMAGE,
        "many": {**IMAGE, "deploy": {"replicas": 3}, "pull_policy": "never"},
        "scaled": {**IMAGE, "scale": 2, "pull_policy": "if_not_present"},
        "last": {**IMAGE, "depends_on": ["plain", "many"]},
        "made": {"build": {"context": "."}},
        "named": {"build": ".", "image": "lab/made:1"},
    }
    file = write(folder, services=services)
    project = read(v2, file)
    assert (project.name, project.files, project.inactive) == ("mylab", (file,), frozenset())
    found = project.services
    assert {name: service.replicas for name, service in found.items()} == {
        "plain": 1, "many": 3, "scaled": 2, "last": 1, "made": 1, "named": 1
    }  # fmt: skip
    assert [found[name].pull_policy for name in ("plain", "many", "scaled")] == [
        PullPolicy.ALWAYS, PullPolicy.NEVER, PullPolicy.MISSING
    ]  # fmt: skip
    assert found["last"].depends_on == ("many", "plain")
    assert [(found[name].built, found[name].image) for name in ("plain", "made", "named")] == [
        (False, "lab/agent:1"), (True, "mylab-made"), (True, "lab/made:1")
    ]  # fmt: skip


def test_only_images_named_in_the_file_are_pulled(v2: ComposeProgram, tmp_path: Path) -> None:
    services = {
        "made": {"build": {"context": "."}, "pull_policy": "always"},
        "named": {"build": ".", "image": "lab/made:1"},
        "other": {**IMAGE, "platform": "linux/arm64"},
    }
    found = read(v2, write(tmp_path, services=services)).services
    assert {name: (each.pull_policy, each.platform) for name, each in found.items()} == {
        "made": (PullPolicy.BUILD, ""),
        "named": (PullPolicy.ALWAYS, ""),
        "other": (PullPolicy.ALWAYS, "linux/arm64"),
    }


def test_several_files_make_one_project_with_a_fixed_name(v2: ComposeProgram, tmp_path: Path) -> None:
    base = write(tmp_path, "a.yaml", name="night", services={"a": IMAGE, "b": IMAGE})
    over = write(tmp_path, "b.yaml", services={"b": {"image": "lab/agent:2"}})
    project = read(v2, base, over)
    assert (project.name, project.files, project.services["b"].image) == (
        "night",
        (base, over),
        "lab/agent:2",
    )


def test_services_of_inactive_profiles_are_listed_as_inactive(v2: ComposeProgram, tmp_path: Path) -> None:
    file = write(tmp_path, services={"a": IMAGE, "debug": {**IMAGE, "profiles": ["debug"]}})
    assert read(v2, file).inactive == {"debug"}
    assert read(v2, file, COMPOSE_PROFILES="debug").inactive == frozenset()
    assert read(v2, file).services["debug"].profiles == ("debug",)


def test_variables_come_from_the_environment_and_the_env_file(v2: ComposeProgram, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TAG=from-file\n")
    file = write(tmp_path, services={"a": {"image": "lab/agent:${TAG}"}})
    assert read(v2, file).services["a"].image == "lab/agent:from-file"
    assert read(v2, file, TAG="from-env").services["a"].image == "lab/agent:from-env"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("services: [", "did not find expected node content"),
        ("services: {a: {imag: x}}", "imag"),
        ('services: {a: {image: "${X:?say which}"}}', "say which"),
        ("services: {a: {}}", "neither an image nor a build context"),
        ("services: {a: {image: x, env_file: [nowhere.env]}}", "nowhere.env"),
    ],
)
def test_the_error_for_a_bad_file_quotes_compose(
    v2: ComposeProgram, tmp_path: Path, text: str, why: str
) -> None:
    (tmp_path / "compose.yaml").write_text(text)
    with pytest.raises(ComposeError, match=why) as caught:
        read(v2, str(tmp_path / "compose.yaml"))
    assert "level=" not in str(caught.value)


def test_the_error_for_a_missing_file_names_the_file(v2: ComposeProgram, tmp_path: Path) -> None:
    with pytest.raises(ComposeError, match=r"cannot read '.*nowhere\.yaml': there is no file"):
        read(v2, str(tmp_path / "nowhere.yaml"))


@pytest.mark.parametrize("name", [".env", "agent.env", "compose.yaml"])
@pytest.mark.parametrize("kind", ["pipe", "device", "huge file"])
def test_a_file_that_would_block_its_reader_is_refused_before_compose_runs(
    tmp_path: Path, name: str, kind: str
) -> None:
    file = write(tmp_path, services={"a": IMAGE | {"env_file": "agent.env"}})
    planted = tmp_path / name
    planted.unlink(missing_ok=True)
    match kind:
        case "pipe":
            os.mkfifo(planted)
        case "device":
            planted.symlink_to("/dev/zero")
        case "huge file":
            with planted.open("wb") as sparse:
                sparse.truncate(2**40)
    never = ComposeProgram((str(tmp_path / "not-run"),), (1, 29, 0))
    why = "larger than 8 MiB" if kind == "huge file" else "not a regular file"
    with pytest.raises(ComposeError, match=f"cannot read '.*/{re.escape(name)}': {why}"):
        read(never, file)


def test_a_hanging_program_is_ended_after_the_timeout(tmp_path: Path) -> None:
    slow = tmp_path / "compose"
    slow.write_text("#!/bin/sh\nexec sleep 1000\n")
    slow.chmod(0o755)
    program = ComposeProgram((str(slow),), (2, 0, 0))
    with pytest.raises(ComposeError, match=r"did not answer in 0\.2 s"):
        read_project(program, (write(tmp_path, services={}),), environ={"PATH": "/bin"}, timeout=0.2)


def test_stop_times_and_the_contents_of_secrets_and_configs_are_read(
    v2: ComposeProgram, tmp_path: Path
) -> None:
    services = {
        "plain": IMAGE,
        "slow": {**IMAGE, "stop_grace_period": "1h2m3s500ms"},
        "endless": {**IMAGE, "stop_grace_period": "-1s"},
        "filed": {**IMAGE, "secrets": ["key"], "configs": [{"source": "settings", "target": "/s"}]},
        "inline": {**IMAGE, "secrets": ["variable"], "configs": ["text"]},
    }
    top = {
        "secrets": {"key": {"file": "./key"}, "variable": {"environment": "TOKEN"}},
        "configs": {"settings": {"file": "settings"}, "text": {"content": "a"}},
    }
    file = write(tmp_path, services=services, **top)
    found = read(v2, file, TOKEN="one").services
    assert [found[name].stop_grace for name in ("plain", "slow", "endless")] == [10.0, 3723.5, -1.0]
    assert found["filed"].content_files == (str(tmp_path / "key"), str(tmp_path / "settings"))
    assert found["plain"].content_files == found["inline"].content_files == ()
    inline = found["inline"].contents.inline
    assert inline
    assert found["plain"].contents.inline == found["filed"].contents.inline == ""
    assert read(v2, file, TOKEN="two").services["inline"].contents.inline != inline
    (tmp_path / ".env").write_text("TOKEN=one\n")
    assert read(v2, file).services["inline"].contents.inline == inline


@pytest.mark.parametrize("version", ["v2", "v1"])
def test_unset_variables_are_named(version: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    program: ComposeProgram = request.getfixturevalue(version)
    environment = {"A": "$UNSET_ONE", "B": "${UNSET_TWO}", "C": "${SET}", "D": "${OTHER:-x}", "E": "$$NOT"}
    file = write(tmp_path, services={"a": {**IMAGE, "environment": environment}})
    assert read(program, file, SET="1").unset_variables == ("UNSET_ONE", "UNSET_TWO")


def test_a_change_of_an_env_file_changes_the_hash(v2: ComposeProgram, tmp_path: Path) -> None:
    file = write(tmp_path, services={"a": {**IMAGE, "env_file": ["a.env"]}, "b": IMAGE})
    (tmp_path / "a.env").write_text("A=1\n")
    before = read(v2, file).services
    (tmp_path / "a.env").write_text("A=2\n")
    after = read(v2, file).services
    assert before["a"].config_hash not in ("", after["a"].config_hash)
    assert before["b"].config_hash == after["b"].config_hash


def test_v1_reads_the_same_services_and_names_the_project_its_own_way(
    v1: ComposeProgram, tmp_path: Path
) -> None:
    folder = tmp_path / "My.Lab_2"
    folder.mkdir()
    file = write(
        folder, services={"a": {**IMAGE, "depends_on": ["b"]}, "b": {**IMAGE, "deploy": {"replicas": 2}}}
    )
    project = read(v1, file)
    assert project.name == "mylab_2"
    assert (project.services["a"].depends_on, project.services["b"].replicas) == (("b",), 2)
    assert read(v1, file, COMPOSE_PROJECT_NAME="Night").name == "night"


@pytest.mark.parametrize("version", ["v2", "v1"])
def test_the_config_hash_equals_the_hash_of_containers_or_is_empty(
    version: str, request: pytest.FixtureRequest, compose_project: MakeProject, image: str
) -> None:
    program: ComposeProgram = request.getfixturevalue(version)
    base = {"image": image, "network_mode": "none", "stop_grace_period": "0s"}
    services = {
        "plain": base,
        "environ": {**base, "environment": {"B": "2"}},
        "filed": {**base, "env_file": ["a.env"]},
        "many": {**base, "deploy": {"replicas": 2}},
        "later": {**base, "depends_on": ["plain"]},
        "checked": {**base, "healthcheck": {"test": ["CMD", "true"], "interval": "60s"}},
    }
    project = compose_project(json.dumps({"services": services}))
    (project.file.parent / "a.env").write_text("A=1\nB='$$ $X'\n")
    found = read_project(program, (str(project.file),), environ=project.engine.environment)
    up = program.command(found.files, found.name, "up", "--detach", all_profiles=True)
    subprocess.run(up, env=project.engine.environment, capture_output=True, check=True, timeout=120)
    unstable = {name for name, service in found.services.items() if not service.config_hash}
    assert unstable == (set() if version == "v2" else set(services))
    for name, service in found.services.items():
        for container in project.containers(name):
            labels = project.engine.api.inspect_container(container)["Config"]["Labels"]
            if service.config_hash:
                assert labels["com.docker.compose.config-hash"] == service.config_hash, name
