"""The key `labels` of a host, an agent class or an instance."""

from __future__ import annotations

import re

from hostmanager_server.config.document import MapNode, Node, Scalar
from hostmanager_server.config.node_reader import Reader, is_null, shown

MAX_LABELS = 32  # of one key
MAX_NAME = 63  # characters
MAX_VALUE = 80  # characters
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._/-]{{0,{MAX_NAME - 1}}}", re.ASCII)

Labels = tuple[tuple[str, str], ...]  # name and value, sorted by name; an empty value for a plain label


def read_labels(reader: Reader, node: Node, label: str) -> Labels | None:
    """Return the labels: a list of `NAME` or `NAME=VALUE`, a single one of these, or a mapping.

    `label` names the key in messages. None: the value is missing, or no label is valid.
    """
    given: list[tuple[str, str, Node]] = []
    if isinstance(node, MapNode):
        for name, entry in reader.mapping(node, label).items():
            value = (
                "" if is_null(entry.value) else reader.text(entry.value, f"label {shown(name)} in {label}")
            )
            if value is not None:
                given.append((name, value, entry.key))
    else:
        single = isinstance(node, Scalar) and not is_null(node)
        for child in (node,) if single else reader.sequence(node, label):
            text = reader.text(child, f"an entry of {label}")
            if text is not None:
                name, _, value = text.partition("=")
                given.append((name, value, child))
    if len(given) > MAX_LABELS:
        reader.error(node, f"{label} has {len(given)} labels; the most is {MAX_LABELS}")
        return None
    labels: dict[str, str] = {}
    for name, value, place in given:
        if _is_valid(reader, name, value, place, label):
            if labels.get(name, value) != value:
                reader.error(place, f"{label} has the label {shown(name)} twice, with different values")
            labels[name] = value
    return tuple(sorted(labels.items())) or None


def _is_valid(reader: Reader, name: str, value: str, place: Node, label: str) -> bool:
    if not _NAME.fullmatch(name):
        rule = f"a label has 1 to {MAX_NAME} letters, digits and '._/-', and begins with a letter or a digit"
        reader.error(place, f"{shown(name)} in {label} is no label: {rule}")
        return False
    if len(value) > MAX_VALUE or not value.isprintable() or value != value.strip():
        rule = f"at most {MAX_VALUE} characters, no control character, no blank at its ends"
        reader.error(place, f"the value {shown(value)} of label {shown(name)} in {label} must have {rule}")
        return False
    return True
