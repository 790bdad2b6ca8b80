"""Instances with chosen fields, for tests."""

from __future__ import annotations

from dataclasses import fields, replace

from hostmanager_server.core.model import Instance, Observed, Standing, Wanted


def with_fields(instance: Instance, **changes: object) -> Instance:
    """Return the instance with changed fields of itself or of its parts."""
    for name, part in (("wanted", Wanted), ("observed", Observed), ("standing", Standing)):
        own = {field.name for field in fields(part)} & changes.keys()
        if own:
            new = replace(getattr(instance, name), **{key: changes.pop(key) for key in own})
            instance = replace(instance, **{name: new})
    return replace(instance, **changes)  # type: ignore[arg-type]  # the test's choice
