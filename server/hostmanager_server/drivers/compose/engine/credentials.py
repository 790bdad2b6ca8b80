"""Finds the credentials for a registry, where `docker login` left them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

from docker import auth
from docker.errors import DockerException
from docker.utils import parse_repository_tag

from hostmanager_server.linux import sd_notify

HELPER_TIMEOUT = 30.0  # s; one that waits for a passphrase would wait for ever: nobody is there to type it
_PREFIX = "docker-credential-"
_NOT_FOUND = "credentials not found"  # how every helper begins to say so
_NO_USER = "<token>"  # instead of a name: the secret is an identity token


class CredentialsError(Exception):
    """The credentials cannot be had; the message is for the operator."""


def credentials_for(image: str, timeout: float = HELPER_TIMEOUT) -> dict[str, str | None]:
    """What the engine is to tell the registry of this image, as the Engine API has it; empty: nothing.

    From the docker config file of this user (DOCKER_CONFIG), or from the credential helper that it names,
    which has `timeout` s to answer. Raises CredentialsError.
    """
    try:
        repository, _ = parse_repository_tag(image)
        registry, _ = auth.resolve_repository_name(repository)
        config = auth.load_config()
        helper = config.get_credential_store(registry)
        found = _ask(helper, registry, timeout) if helper else {}
        return found or auth.AuthConfig({"auths": config.auths}).resolve_authconfig(registry) or {}
    except DockerException as error:
        raise CredentialsError(f"cannot find the credentials for {image}: {error}") from error
    except ValueError as error:  # what is in the file is not what `docker login` writes
        raise CredentialsError(
            f"cannot use the credentials in the docker config file ({error}); log in again (docker login)"
        ) from error


def _ask(name: str, registry: str, timeout: float) -> dict[str, str | None]:
    """What the credential helper says; see github.com/docker/docker-credential-helpers."""
    program = _PREFIX + name
    server = auth.INDEX_URL if registry == auth.INDEX_NAME else registry
    path = shutil.which(program)
    if path is None:
        raise CredentialsError(
            f"cannot get the credentials for {server}: the docker config file wants {program}, and there is"
            " none on the PATH of this daemon"
        )
    try:
        done = subprocess.run(
            [path, "get"], input=server, capture_output=True, text=True, errors="replace", timeout=timeout,
            check=False, env=sd_notify.of_others(os.environ),
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise CredentialsError(
            f"{program} did not give the credentials for {server} in {timeout:g} s"
        ) from error
    except OSError as error:
        raise CredentialsError(f"cannot run {path}: {error.strerror}") from error
    if done.returncode != 0:
        said = (done.stdout.strip() or done.stderr.strip()).removesuffix("\n")
        if said.startswith(_NOT_FOUND):
            return {}
        raise CredentialsError(
            f"{program} gave no credentials for {server}: {said or f'exit code {done.returncode}'}"
        )
    try:
        answer = json.loads(done.stdout)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, LookupError, TypeError) as error:
        raise CredentialsError(f"{program} gave no credentials for {server}, but something else") from error
    if not user and not secret:  # docker-credential-pass, of a server that it does not know
        return {}
    if user == _NO_USER:
        return {"serveraddress": server, "identitytoken": secret}
    return {"serveraddress": server, "username": user, "password": secret}
