"""Selection of the image events that may change the image of a watched tag."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_PREFIXES = ("docker.io/", "index.docker.io/", "localhost/", "library/")
_ID = re.compile(r"(sha256:)?[0-9a-f]{4,64}")
_UNNAMED = ("load", "loadfromarchive")  # events that do not name the tags they move


def concerns(event: Mapping[str, Any], tags: Iterable[str], ids: Iterable[str]) -> bool:
    """Return whether an image event may change the id of a tag.

    `ids` are the present ids of the tags. In doubt, the answer is True: builds and pulls of other images must
    not cost an inspection of every tag, but no change may be missed.
    """
    tags = [tag for tag in tags if tag]
    if not tags:
        return False
    actor = event.get("Actor") or {}
    names = [name for name in (actor.get("ID"), (actor.get("Attributes") or {}).get("name")) if name]
    if event.get("Action") in _UNNAMED or not names or any(_ID.fullmatch(tag) for tag in tags):
        return True
    known = {_hex(each) for each in ids} | {_repository(tag) for tag in tags}
    return any(_hex(name) in known or _repository(name) in known for name in names)


def _hex(image_id: str) -> str:
    return image_id.removeprefix("sha256:")


def _repository(reference: str) -> str:
    """Return the repository of a reference, in the short form that users write."""
    name = reference.partition("@")[0]
    if ":" in name.rpartition("/")[2]:
        name = name.rpartition(":")[0]
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name
