"""Compose's hash of a service definition, for services that use namespaces or volumes of other services.

Compose replaces the names of the other services by the ids of their containers before it hashes the
definition for the label of a container, but not before `config --hash`. So the two never agree, and the label
of a new container differs although nothing has changed. Observed with Compose 2.26 and 2.40: the hash is
the SHA-256 of the definition as compact JSON, without the keys that concern no container. `hashable` verifies
that on the definition itself, so that another Compose cannot lead to wrong conclusions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from hostmanager_server.core.digests import sha256

_SHARED_KEYS = ("network_mode", "ipc", "pid")
_OF_ANOTHER_SERVICE = "service:"
_OF_A_CONTAINER = "container:"
# Keys that Compose leaves out: up to 2.26, and at the latest from 2.40 on.
_NOT_HASHED = (
    ("build", "pull_policy", "scale"),
    ("build", "pull_policy", "scale", "depends_on", "profiles"),
)
# Go writes these characters as escapes.
_ESCAPED = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


def shares_with_services(definition: Mapping[str, Any]) -> bool:
    """Return whether the service uses namespaces or volumes of other services."""
    return any(
        str(definition.get(key) or "").startswith(_OF_ANOTHER_SERVICE) for key in _SHARED_KEYS
    ) or bool(volumes_of_services(definition))


def volumes_of_services(definition: Mapping[str, Any]) -> set[str]:
    """Return the names of the services whose volumes the service uses."""
    entries = definition.get("volumes_from") or ()
    return {str(entry).partition(":")[0] for entry in entries if not str(entry).startswith(_OF_A_CONTAINER)}


def hashable(definition: Mapping[str, Any], config_hash: str) -> str:
    """Return the part of a definition that compose hashes, as JSON.

    `definition` is from `config --format json`. Returns the empty string when its hash is not `config_hash`:
    this Compose hashes in another way.
    """
    if isinstance(deploy := definition.get("deploy"), dict):
        deploy = {key: value for key, value in deploy.items() if key != "replicas"}
        definition = {**definition, "deploy": deploy}
    for left_out in _NOT_HASHED:
        hashed = {key: value for key, value in definition.items() if key not in left_out}
        if _hash(hashed) == config_hash:
            return json.dumps(hashed, ensure_ascii=False)
    return ""


@lru_cache(maxsize=256)
def hash_with_containers(text: str, shared: tuple[tuple[str, str | tuple[str, ...]], ...]) -> str:
    """Return the hash of a definition from `hashable` in which a container uses others.

    `shared` is the attribute of the container.
    """
    definition = json.loads(text)
    for key, value in shared:
        given = definition.get(key)
        if key == "volumes_from" and given:
            definition[key] = list(value)
        elif str(given or "").startswith(_OF_ANOTHER_SERVICE):
            definition[key] = value
    return _hash(definition)


def _hash(definition: Mapping[str, Any]) -> str:
    text = json.dumps(definition, ensure_ascii=False, separators=(",", ":")).translate(_ESCAPED)
    return sha256(text.encode()).hexdigest()
