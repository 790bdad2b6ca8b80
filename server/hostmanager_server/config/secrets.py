"""Detection of secrets, by the names of values and by passwords in addresses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from hostmanager.values import dataclass

from hostmanager_server.config.document import ListNode, MapNode, Node, Scalar
from hostmanager_server.config.node_reader import is_null

MASK = "***"
_NAME = re.compile(
    r"SECRET|TOKEN|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL"
    r"|KEYS?(?![A-Z0-9])"  # API_KEY and APIKEY, not KEYBOARD
    r"|(?<![A-Z0-9])PASS(?![A-Z0-9])"
    r"|(?<=[_.-])PWD(?![A-Z0-9])",  # MYSQL_PWD, not PWD
    re.IGNORECASE,
)
# Names of values that tell only the place of a secret, such as a path.
_REFERENCE = re.compile(r"[_.-](FILE|FILENAME|PATH|DIR|DIRECTORY|SOCK|SOCKET|ID|NAME)$", re.IGNORECASE)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/@\s:]*:[^/@\s]+@")
_OPTION = re.compile(r"-{1,2}([A-Za-z][A-Za-z0-9_.-]*)")
MAX_FOUND = 20


@dataclass(frozen=True, slots=True)
class ExposedSecret:
    """A value that may be a secret: the keys on the way to the value, and its place."""

    path: str
    node: Node


def is_secret_name(name: str) -> bool:
    """Return whether a value of this name is likely to be a secret."""
    words = _CAMEL.sub("_", name)
    return bool(_NAME.search(words)) and not _REFERENCE.search(words)


def has_password(value: str) -> bool:
    """Return whether a value contains an address with a password."""
    return bool(_ADDRESS.search(value))


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
    for at, name in _secret_words([item.text for item in scalars]):
        yield ExposedSecret(f"{path} {name}", scalars[at])


def _secret_words(words: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield the index and the name of each word that holds a secret.

    Such a word is NAME=VALUE, --option=VALUE, or the word after an option.
    """
    for at, word in enumerate(words):
        name, equals, value = word.partition("=")
        if equals and value and is_secret_name(name):
            yield at, name
        elif at and word and not word.startswith("-") and _is_secret_option(words[at - 1]):
            yield at, words[at - 1]


def _is_secret_option(word: str) -> bool:
    return bool(_OPTION.fullmatch(word)) and is_secret_name(word)
