"""Registry credentials, as stored by `docker login`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

from docker import auth
from docker.errors import DockerException
from docker.utils import parse_repository_tag

from hostmanager_server.linux import child_signals, sd_notify

HELPER_TIMEOUT = 30.0  # s; a helper that asks for a passphrase would wait without limit
_PREFIX = "docker-credential-"
_NOT_FOUND = "credentials not found"  # the beginning of every helper's message for an unknown registry
_IDENTITY = "<token>"  # in place of a user name: the secret is an identity token


class CredentialsError(Exception):
    """Credentials that cannot be read; the message is for the operator."""


def credentials_for(image: str, timeout: float = HELPER_TIMEOUT) -> dict[str, str | None]:
    """Return the registry credentials for an image, as the Engine API wants them.

    Empty without a login.

    The docker config file of this user (DOCKER_CONFIG) or the credential helper named there has the
    credentials. A helper has `timeout` s to answer. Raises CredentialsError.
    """
    try:
        repository, _ = parse_repository_tag(image)
        registry, _ = auth.resolve_repository_name(repository)
        config = auth.load_config()
        helper = config.get_credential_store(registry)
        found = _ask_helper(helper, registry, timeout) if helper else {}
        return found or auth.AuthConfig({"auths": config.auths}).resolve_authconfig(registry) or {}
    except DockerException as error:
        raise CredentialsError(f"cannot find the credentials for {image}: {error}") from error
    except ValueError as error:  # the file's content does not come from `docker login`
        raise CredentialsError(
            f"cannot use the credentials in the docker config file ({error}); log in again (docker login)"
        ) from error


def _ask_helper(name: str, registry: str, timeout: float) -> dict[str, str | None]:
    """Return the answer of a credential helper.

    See github.com/docker/docker-credential-helpers for the protocol.
    """
    program = _PREFIX + name
    server = auth.INDEX_URL if registry == auth.INDEX_NAME else registry
    path = shutil.which(program)
    if path is None:
        raise CredentialsError(
            f"cannot get the credentials for {server}: the docker config file names {program}, which is not"
            " on the PATH of this daemon; install the helper, or log in again (docker login)"
        )
    try:
        with child_signals.unblocked():
            done = subprocess.run(
                [path, "get"], input=server, capture_output=True, text=True, errors="replace",
                timeout=timeout, check=False, env=sd_notify.without_private_variables(os.environ),
            )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise CredentialsError(
            f"cannot get the credentials for {server}: {program} did not answer in {timeout:g} s"
        ) from error
    except OSError as error:
        raise CredentialsError(f"cannot run {path}: {error.strerror}") from error
    if done.returncode != 0:
        output = (done.stdout.strip() or done.stderr.strip()).removesuffix("\n")
        if output.startswith(_NOT_FOUND):
            return {}
        raise CredentialsError(
            f"cannot get the credentials for {server}: {program} failed:"
            f" {output or f'exit code {done.returncode}'}"
        )
    try:
        answer = json.loads(done.stdout)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, LookupError, TypeError) as error:
        raise CredentialsError(
            f"cannot get the credentials for {server}: {program} printed something else"
        ) from error

    if not user and not secret:  # docker-credential-pass answers so for an unknown server
        return {}
    if user == _IDENTITY:
        return {"serveraddress": server, "identitytoken": secret}
    return {"serveraddress": server, "username": user, "password": secret}
