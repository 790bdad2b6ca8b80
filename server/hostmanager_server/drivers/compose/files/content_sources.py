"""Sources of the secrets and configs that services use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hostmanager.values import replace

from hostmanager_server.core.spec import ServiceContents, ServiceSpec
from hostmanager_server.drivers.compose.files.contents import inline_digest

_KINDS = ("secrets", "configs")


def with_content_sources(
    specs: Mapping[str, ServiceSpec], document: Mapping[str, Any], variables: Mapping[str, str]
) -> dict[str, ServiceSpec]:
    """Return the services with the files and inline contents of their secrets and configs.

    `document` is the output of `compose config`, with absolute paths.
    """
    services = document.get("services") or {}
    return {
        name: _with_sources(spec, services.get(name), document, variables) for name, spec in specs.items()
    }


def _with_sources(
    spec: ServiceSpec, service: object, document: Mapping[str, Any], variables: Mapping[str, str]
) -> ServiceSpec:
    files: set[str] = set()
    inline: dict[str, str] = {}
    for kind, name, source in _used(service, document):
        if source.get("file"):
            files.add(str(source["file"]))
        elif "content" in source:
            inline[f"{kind} {name}"] = str(source["content"])
        elif source.get("environment"):
            inline[f"{kind} {name}"] = variables.get(str(source["environment"]), "")
    contents = ServiceContents(inline=inline_digest(inline))
    return replace(spec, content_files=tuple(sorted(files)), contents=contents)


def _used(service: object, document: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield the kind, name and definition of the secrets and configs that a service uses."""
    for kind in _KINDS:
        defined = document.get(kind)
        entries = service.get(kind) if isinstance(service, dict) else None
        if not isinstance(entries, list) or not isinstance(defined, dict):
            continue
        for entry in entries:
            name = str(entry.get("source") if isinstance(entry, dict) else entry)
            if isinstance(source := defined.get(name), dict):
                yield kind, name, source
