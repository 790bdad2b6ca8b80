"""Detection of secrets, by the names of values and by passwords in addresses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hostmanager.values import dataclass

from hostmanager_server.config.document import ListNode, MapNode, Node, Scalar
from hostmanager_server.config.node_reader import is_null
from hostmanager_server.core.secret_names import MASK, has_password, is_secret_name, secret_words

MAX_FOUND = 20


@dataclass(frozen=True, slots=True)
class ExposedSecret:
    """A value that may be a secret: the keys on the way to the value, and its place."""

    path: str
    node: Node


def masked(env: Mapping[str, str]) -> dict[str, str]:
    """Return variables for display, with values that may be secrets masked."""
    return {
        name: MASK if is_secret_name(name) or has_password(value) else value for name, value in env.items()
    }


def find_secrets(document: Node) -> Iterator[ExposedSecret]:
    """Yield the values of a site config that may be secrets, in the order of the file."""
    visited: set[int] = set()
    rest: list[tuple[str, Node]] = [("", document)]
    while rest:
        path, node = rest.pop()
        if id(node) in visited:  # by an alias
            continue
        visited.add(id(node))
        match node:
            case MapNode():
                for key, value in reversed(node.pairs):
                    if isinstance(key, Scalar):
                        rest.append((f"{path}.{key.text}" if path else key.text, value))
            case ListNode():
                yield from _in_words(path, node)
                items = [(f"{path}[{_label(item, at)}]", item) for at, item in enumerate(node.items)]
                rest += reversed(items)
            case Scalar() if not is_null(node) and node.text:
                name = path.rpartition(".")[2]
                if (is_secret_name(name) and "[" not in name) or has_password(node.text):
                    yield ExposedSecret(path, node)


def _label(node: Node, index: int) -> str:
    if isinstance(node, MapNode):
        for key, value in node.pairs:
            if isinstance(key, Scalar) and key.text == "instance-id" and isinstance(value, Scalar):
                return value.text
    return str(index)


def _in_words(path: str, node: ListNode) -> Iterator[ExposedSecret]:
    scalars = [item for item in node.items if isinstance(item, Scalar)]
    for at, name in secret_words([item.text for item in scalars]):
        yield ExposedSecret(f"{path} {name}", scalars[at])
