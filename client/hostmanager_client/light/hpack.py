"""Header compression of HTTP/2 (RFC 7541): plain encoding, complete decoding."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

Header = tuple[bytes, bytes]

MOST_BYTES = 64 * 1024  # of one decoded header list
TABLE_SIZE = 4096  # of the dynamic table; the default of the protocol
_ENTRY_OVERHEAD = 32

# Appendix A; a name without a value stands alone.
_STATIC_TEXT = (
    ":authority :method=GET :method=POST :path=/ :path=/index.html :scheme=http :scheme=https "
    ":status=200 :status=204 :status=206 :status=304 :status=400 :status=404 :status=500 "
    "accept-charset accept-encoding accept-language accept-ranges accept access-control-allow-origin "
    "age allow authorization cache-control content-disposition content-encoding content-language "
    "content-length content-location content-range content-type cookie date etag expect expires from "
    "host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified link "
    "location max-forwards proxy-authenticate proxy-authorization range referer refresh retry-after "
    "server set-cookie strict-transport-security transfer-encoding user-agent vary via "
    "www-authenticate "
)
_STATIC: list[Header] = []
for _entry in _STATIC_TEXT.encode().split():
    _name, _, _content = _entry.partition(b"=")
    _STATIC.append((_name, _content))
_STATIC[15] = (b"accept-encoding", b"gzip, deflate")

# Appendix B: the length in bits of the code of each byte, and of the end of a string. The code is canonical.
_HUFFMAN_LENGTHS = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c060a0a0c0d06080b0a0a080b08060606"
    "0505050606060606060607080f060c0a0d06070707070707070707070707070707070707070707070807080d130d0e06"
    "0f05060506050606060507070606060506070605050607070707070f0b0e0d1c14161414161616171617171717171817"
    "181816171817171717151617161717181615141616171715171616181516171715151615171617171416161617161617"
    "1a1a1413161716191a1a1a1b1b1a181913151a1b1b1a1b1815151a1a1c1b1b1b14181415161515171616191918181a17"
    "1a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a1e"
)
_END = 256
_LONGEST_CODE = 30


class HeaderError(ValueError):
    """A header block that is malformed, or larger than any answer of a daemon."""


def encode_headers(headers: Iterable[Header]) -> bytes:
    """Return a header block; each header is a literal that no table keeps."""
    return b"".join(b"\x10" + _encode_text(name) + _encode_text(value) for name, value in headers)


def _encode_text(text: bytes) -> bytes:
    size = len(text)
    if size < 127:
        return bytes([size]) + text
    size -= 127
    prefix = bytearray([127])
    while size >= 128:
        prefix.append(size % 128 + 128)
        size //= 128
    prefix.append(size)
    return bytes(prefix) + text


class HeaderDecoder:
    """A decoder of the header blocks of one connection, with their dynamic table."""

    def __init__(self) -> None:
        self._dynamic: list[Header] = []  # the newest first
        self._limit = TABLE_SIZE

    def decode(self, block: bytes) -> list[Header]:
        """Return the headers of a complete block; raise HeaderError."""
        headers: list[Header] = []
        position = total = 0
        while position < len(block):
            first = block[position]
            if first & 0x80:
                index, position = _integer(block, position, 7)
                header = self._entry(index)
            elif first & 0xE0 == 0x20:
                if headers:
                    raise HeaderError("cannot change the size of the table after a header")
                size, position = _integer(block, position, 5)
                if size > TABLE_SIZE:
                    raise HeaderError(f"cannot use a table of {size} bytes")
                self._limit = size
                self._evict()
                continue
            else:
                kept = bool(first & 0x40)
                index, position = _integer(block, position, 6 if kept else 4)
                if index:
                    name = self._entry(index)[0]
                else:
                    name, position = _text(block, position)
                value, position = _text(block, position)
                header = name, value
                if kept:
                    self._dynamic.insert(0, header)
                    self._evict()
            total += len(header[0]) + len(header[1]) + _ENTRY_OVERHEAD
            if total > MOST_BYTES:
                raise HeaderError(f"cannot accept more than {MOST_BYTES} bytes of headers")
            headers.append(header)
        return headers

    def _entry(self, index: int) -> Header:
        if 1 <= index <= len(_STATIC):
            return _STATIC[index - 1]
        try:
            return self._dynamic[index - len(_STATIC) - 1] if index else self._dynamic[len(self._dynamic)]
        except IndexError:
            raise HeaderError(f"cannot find header {index} in the table") from None

    def _evict(self) -> None:
        size = sum(len(name) + len(value) + _ENTRY_OVERHEAD for name, value in self._dynamic)
        while size > self._limit:
            name, value = self._dynamic.pop()
            size -= len(name) + len(value) + _ENTRY_OVERHEAD


def _integer(block: bytes, position: int, bits: int) -> tuple[int, int]:
    """Return an integer with a prefix of `bits` bits, and the position behind it."""
    most = (1 << bits) - 1
    value = block[position] & most
    position += 1
    if value < most:
        return value, position
    for shift in (0, 7, 14, 21):
        if position >= len(block):
            break
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise HeaderError("cannot read an integer: it is cut off or too large")


def _text(block: bytes, position: int) -> tuple[bytes, int]:
    if position >= len(block):
        raise HeaderError("cannot read a text: the block ends before it")
    compressed = block[position] & 0x80
    size, position = _integer(block, position, 7)
    text = block[position : position + size]
    if len(text) < size:
        raise HeaderError("cannot read a text: the block ends within it")
    return (_decompress(text) if compressed else text), position + size


def _huffman_codes() -> dict[tuple[int, int], int]:
    """Return a map from length and code to the byte."""
    codes: dict[tuple[int, int], int] = {}
    code = length = 0
    for symbol in sorted(range(len(_HUFFMAN_LENGTHS)), key=_HUFFMAN_LENGTHS.__getitem__):
        code <<= _HUFFMAN_LENGTHS[symbol] - length
        length = _HUFFMAN_LENGTHS[symbol]
        codes[length, code] = symbol
        code += 1
    return codes


_codes: dict[tuple[int, int], int] = {}  # computed at the first compressed text


def _decompress(text: bytes) -> bytes:
    if not _codes:
        _codes.update(_huffman_codes())
    result = bytearray()
    code = length = 0
    for byte in text:
        for shift in range(7, -1, -1):
            code = code << 1 | byte >> shift & 1
            length += 1
            symbol = _codes.get((length, code))
            if symbol is None:
                if length >= _LONGEST_CODE:
                    raise HeaderError("cannot decompress a text: unknown code")
            elif symbol == _END:
                raise HeaderError("cannot decompress a text: it has a code for its end")
            else:
                result.append(symbol)
                code = length = 0
    if length > 7 or code != (1 << length) - 1:
        raise HeaderError("cannot decompress a text: wrong padding")
    return bytes(result)
