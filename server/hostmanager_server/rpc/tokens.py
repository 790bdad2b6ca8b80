"""Resume tokens and page tokens: positions that clients give back."""

from __future__ import annotations

from hostmanager_server.rpc.errors import FieldViolation, RpcError, invalid

_MOST_DIGITS = 18  # fits into 64 bits
# A page goes on after the last id of the page before: instances that come and go in between do no harm.
_PAGE_PREFIX = "after:"


def write_token(epoch: str, position: int) -> str:
    """Return the token for a position (a revision or a sequence number) in an epoch."""
    return f"{epoch}.{position}"


def read_token(text: str, field: str = "resume_token") -> tuple[str, int]:
    """Return epoch and position of a token. Raises RpcError when the text is no token of this API."""
    epoch, dot, position = text.rpartition(".")
    if not dot or not epoch or not position.isascii() or not position.isdigit():
        raise _bad_token(field)
    if len(position) > _MOST_DIGITS:
        raise _bad_token(field)
    return epoch, int(position)


def write_page_token(last_id: str) -> str:
    """Return the token for the page that follows an instance id."""
    return _PAGE_PREFIX + last_id


def read_page_token(text: str) -> str:
    """Return the last id of the page before. Raises RpcError when the text is no page token."""
    if not text.startswith(_PAGE_PREFIX):
        raise _bad_token("page_token")
    return text.removeprefix(_PAGE_PREFIX)


def _bad_token(field: str) -> RpcError:
    message = f"{field} is not one that this API gave out; leave it empty to start afresh"
    return invalid(message, FieldViolation(field, message))
