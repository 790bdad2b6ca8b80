"""Tests of registry credentials, with real credential helpers on the PATH."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hostmanager_server.drivers.compose.engine.credentials import CredentialsError, credentials_for

Config = Callable[[object], None]
Helper = Callable[[str], None]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Return a function that writes the docker config file."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    def write(document: object) -> None:
        (tmp_path / "config.json").write_text(json.dumps(document))

    return write


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Helper:
    """Return a function that creates docker-credential-lab from a shell script."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def make(script: str) -> None:
        program = tmp_path / "docker-credential-lab"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    return make


def login(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_a_login_is_found_by_the_registry_of_the_image(config: Config) -> None:
    config({"auths": {"lab.example:5000": login("ann", "secret")}})
    found = credentials_for("lab.example:5000/lab/agent:1")
    assert (found["username"], found["password"]) == ("ann", "secret")
    assert credentials_for("other.example/lab/agent:1") == {}


def test_an_image_without_a_registry_belongs_to_docker_hub(config: Config) -> None:
    config({"auths": {"https://index.docker.io/v1/": login("ann", "secret")}})
    assert credentials_for("busybox")["username"] == "ann"
    assert credentials_for(f"lab/agent@sha256:{64 * 'a'}")["username"] == "ann"


def test_a_missing_config_file_means_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert credentials_for("lab.example/agent:1") == {}


def test_a_helper_is_asked_for_its_registry_only(config: Config, helper: Helper) -> None:
    config({"auths": {"b.example": login("ann", "a")}, "credHelpers": {"a.example": "lab"}})
    helper("""read server; echo '{"Username": "bob", "Secret": "'$1 $server'"}'""")
    assert credentials_for("a.example/agent:1") == {
        "serveraddress": "a.example", "username": "bob", "password": "get a.example"
    }  # fmt: skip
    assert credentials_for("b.example/agent:1")["username"] == "ann"


def test_a_helper_may_return_an_identity_token(config: Config, helper: Helper) -> None:
    config({"credsStore": "lab"})
    helper("""echo '{"Username": "<token>", "Secret": "t"}'""")
    assert credentials_for("agent:1") == {
        "serveraddress": "https://index.docker.io/v1/", "identitytoken": "t"
    }  # fmt: skip


@pytest.mark.parametrize(
    "script",
    [
        "echo credentials not found in native keychain; exit 1",
        """echo '{"Username": "", "Secret": ""}'""",
    ],
)
def test_the_config_file_is_read_for_registries_unknown_to_the_helper(
    config: Config, helper: Helper, script: str
) -> None:
    config({"auths": {"a.example": login("ann", "a")}, "credsStore": "lab"})
    helper(script)
    assert credentials_for("a.example/agent:1")["username"] == "ann"
    assert credentials_for("b.example/agent:1") == {}


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo the vault is locked; exit 1", "failed: the vault is locked"),
        ("echo the vault is locked >&2; exit 1", "failed: the vault is locked"),
        ("exit 3", "failed: exit code 3"),
        ("echo hello", "printed something else"),
        ("echo '[]'", "printed something else"),
        ("exec sleep 1000", "did not answer in 0.5 s"),
    ],
)
def test_the_error_for_a_failed_helper_names_helper_and_reason(
    config: Config, helper: Helper, script: str, why: str
) -> None:
    config({"credsStore": "lab"})
    helper(script)
    with pytest.raises(CredentialsError, match=f"for a.example: docker-credential-lab .*{why}"):
        credentials_for("a.example/agent:1", timeout=0.5 if "sleep" in script else 30.0)


def test_the_error_for_a_missing_helper_names_the_helper(config: Config) -> None:
    config({"credsStore": "nosuch"})
    with pytest.raises(CredentialsError, match="docker-credential-nosuch, which is not on the PATH"):
        credentials_for("a.example/agent:1")


def test_the_error_for_a_broken_login_says_to_log_in_again(config: Config) -> None:
    config({"auths": {"a.example": {"auth": "!"}}})
    with pytest.raises(CredentialsError, match="docker login"):
        credentials_for("a.example/agent:1")
