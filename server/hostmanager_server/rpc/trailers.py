"""The trailers of a failed call, kept small enough to reach every client.

gRPC drops trailers over 16 KiB always and over 8 KiB by chance (seen with grpcio 1.85): the client then sees
RESOURCE_EXHAUSTED instead of the status.
"""

from __future__ import annotations

import base64
from bisect import bisect_right
from collections.abc import Iterator, Sequence

from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from hostmanager.values import dataclass

from hostmanager_server.rpc.errors import FieldViolation, RpcError

DOMAIN = "hostmanager"
# The key under which gRPC clients of every language look for a google.rpc.Status.
STATUS_DETAILS = "grpc-status-details-bin"

MOST_BYTES = 4000  # of all trailers of an error, as they travel
MOST_LISTED = 20
OMITTED = "omitted"  # the ErrorInfo metadata key with the number of entries left out

_PER_TRAILER = 32  # bytes that HTTP/2 adds to each header's name and value (RFC 9113, 6.5.2)
_LONGEST_TEXTS = (1000, 600, 400, 250, 150, 80, 40, 12)  # encoded bytes; tried in turn
_LONGEST_OF_A_LIST = 400  # encoded bytes, so that one long entry does not displace the others
_MOST_METADATA = 16
_CUT = "..."
# The bytes that a grpc-message has as they are; others take three.
_UNCHANGED = bytes(byte for byte in range(0x20, 0x7F) if byte != 0x25)


@dataclass(frozen=True, slots=True)
class Trailers:
    """The status text and the metadata of a failed call."""

    message: str
    metadata: tuple[tuple[str, bytes], ...]

    @property
    def size(self) -> int:
        """The bytes of all trailers as they travel: percent-encoded text, base64 details."""
        sizes = [("grpc-status", 2), ("grpc-message", _encoded_size(self.message))]
        sizes += [(key, len(base64.b64encode(value))) for key, value in self.metadata]
        return sum(len(key) + size + _PER_TRAILER for key, size in sizes)


def trailers(error: RpcError) -> Trailers:
    """Return the trailers of an error, of at most MOST_BYTES.

    The status and its reason always survive. At most MOST_LISTED entries are listed, fewer when they are
    long; the text says how many are left out. A text that is still too long loses its middle.
    """
    for candidate in _candidates(error):
        if candidate.size <= MOST_BYTES:
            return candidate
    raise AssertionError("the shortest form of an error is within the bound")


def _candidates(error: RpcError) -> Iterator[Trailers]:
    """Yield the forms of an error, the most detailed first."""
    count = max(len(error.entries), len(error.violations))
    for longest in _LONGEST_TEXTS:
        if count > 1 and longest > _LONGEST_OF_A_LIST:
            continue
        shortened = _Shortened(error, longest)
        for listed in range(min(count, MOST_LISTED), 0, -1):
            yield shortened.with_entries(listed)
        if not count:
            yield shortened.with_entries(0)


class _Shortened:
    """An error with all texts shortened to `longest` encoded bytes."""

    def __init__(self, error: RpcError, longest: int) -> None:
        self._error = error
        self._message = shorten(error.message, longest)
        self._remedy = shorten(error.remedy, longest)
        self._entries = [shorten(text, longest) for text in error.entries[:MOST_LISTED]]
        self._violations = [
            FieldViolation(shorten(each.field, longest), shorten(each.description, longest))
            for each in error.violations[:MOST_LISTED]
        ]
        pairs = list(error.metadata.items())[:_MOST_METADATA]
        self._metadata = {shorten(key, longest): shorten(value, longest) for key, value in pairs}

    def with_entries(self, listed: int) -> Trailers:
        """Return the trailers with the first `listed` entries."""
        error, metadata = self._error, dict(self._metadata)
        omitted = max(len(error.entries), len(error.violations)) - listed
        text = [self._message] if self._message else []
        text += self._entries[:listed]
        if omitted > 0:
            metadata[OMITTED] = str(omitted)
            text.append(f"and {omitted} more{self._remedy and f': {self._remedy}'}")
        message = error.separator.join(text)
        details = _status(error, message, metadata, self._violations[:listed])
        return Trailers(message, ((STATUS_DETAILS, details),))


def _status(
    error: RpcError, message: str, metadata: dict[str, str], violations: Sequence[FieldViolation]
) -> bytes:
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    packed = [_pack(info)]
    if violations:
        bad = error_details_pb2.BadRequest()
        for violation in violations:
            bad.field_violations.add(field=violation.field, description=violation.description)
        packed.append(_pack(bad))
    status = status_pb2.Status(code=error.code.value[0], message=message, details=packed)
    return bytes(status.SerializeToString())


def _pack(detail: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed


def shorten(text: str, longest: int) -> str:
    """Return the text, without its middle when its encoded form has more than `longest` bytes.

    The ends stay, as the place in a file is at the beginning and the reason at the end. Bytes of a file name
    that are no Unicode are escaped.
    """
    text = text.encode(errors="backslashreplace").decode()
    if len(text) <= longest and _encoded_size(text) <= longest:  # encoding a megabyte would be slow
        return text
    half = (longest - len(_CUT)) // 2
    return _head(text, half) + _CUT + _head(text[::-1], half)[::-1]


def _head(text: str, longest: int) -> str:
    """Return the longest beginning of a text with at most `longest` encoded bytes."""
    text = text[:longest]  # a character takes a byte at least
    return text[: bisect_right(range(1, len(text) + 1), longest, key=lambda end: _encoded_size(text[:end]))]


def _encoded_size(text: str) -> int:
    """Return the size of a text as a grpc-message, which percent-encodes all but printable ASCII."""
    data = text.encode()
    return len(data) + 2 * len(data.translate(None, _UNCHANGED))
