"""Protobuf messages put together from serialized parts.

A serialized message is a sequence of fields in any order. Elements of a repeated field may stand apart, so a
list of serialized instances can be kept, and each message of them only joined
(https://protobuf.dev/programming-guides/encoding/).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

_FIXED64, _LENGTH_DELIMITED = 1, 2  # wire types
_DOUBLE = struct.Struct("<d")


def embedded(number: int, message: bytes) -> bytes:
    """Return a serialized message as the field `number` of another message, or as one of its elements."""
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(message)) + message


def repeated(number: int, messages: Iterable[bytes]) -> bytes:
    """Return serialized messages as the elements of the repeated field `number`."""
    tag = _varint(number << 3 | _LENGTH_DELIMITED)
    return b"".join([part for message in messages for part in (tag, _varint(len(message)), message)])


def double(number: int, value: float) -> bytes:
    """Return a floating-point number as the field `number`."""
    return _varint(number << 3 | _FIXED64) + _DOUBLE.pack(value)


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
