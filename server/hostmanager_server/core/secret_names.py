"""Names of values that are likely to be secrets, and addresses with passwords."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

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


def is_secret_name(name: str) -> bool:
    """Return whether a value of this name is likely to be a secret."""
    words = _CAMEL.sub("_", name)
    return bool(_NAME.search(words)) and not _REFERENCE.search(words)


def has_password(value: str) -> bool:
    """Return whether a value contains an address with a password."""
    return bool(_ADDRESS.search(value))


def secret_words(words: Sequence[str]) -> Iterator[tuple[int, str]]:
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
