"""Header blocks: against the examples of RFC 7541, against hpack, and against garbage."""

from __future__ import annotations

import hpack
import pytest
from hostmanager_client.light.hpack import HeaderDecoder, HeaderError, encode_headers
from hypothesis import given
from hypothesis import strategies as st

NAMES = st.sampled_from([b":status", b"content-type", b"grpc-status", b"grpc-message", b"x-own", b"server"])
HEADERS = st.lists(st.tuples(NAMES, st.binary(max_size=40)), max_size=8)


def test_the_examples_of_the_standard_are_decoded() -> None:
    """Appendix C.6: three answers on one connection, compressed, with evictions from a table of 256 bytes."""
    decoder = HeaderDecoder()
    resize = bytes.fromhex("3fe101")
    first = decoder.decode(
        resize + bytes.fromhex(
            "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82"
            "ae43d3"
        )
    )  # fmt: skip
    assert first == [
        (b":status", b"302"),
        (b"cache-control", b"private"),
        (b"date", b"Mon, 21 Oct 2013 20:13:21 GMT"),
        (b"location", b"https://www.example.com"),
    ]
    assert decoder.decode(bytes.fromhex("4883640effc1c0bf"))[0] == (b":status", b"307")


@given(answers=st.lists(HEADERS, max_size=4), huffman=st.booleans())
def test_blocks_of_another_implementation_are_decoded(
    *, answers: list[list[tuple[bytes, bytes]]], huffman: bool
) -> None:
    theirs, ours = hpack.Encoder(), HeaderDecoder()
    for headers in answers:
        assert ours.decode(theirs.encode(headers, huffman=huffman)) == headers


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=300), st.binary(max_size=20_000)), max_size=3))
def test_another_implementation_decodes_our_blocks(headers: list[tuple[bytes, bytes]]) -> None:
    theirs = hpack.Decoder(max_header_list_size=1 << 20)
    decoded = theirs.decode(encode_headers(headers), raw=True)
    assert [(bytes(name), bytes(value)) for name, value in decoded] == headers


@given(st.lists(st.binary(max_size=200), max_size=3))
def test_garbage_is_decoded_or_refused(blocks: list[bytes]) -> None:
    decoder = HeaderDecoder()
    for block in blocks:
        try:
            decoder.decode(block)
        except HeaderError:
            return


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",  # index 0
        b"\xff\xff\xff\xff\xff\xff\xff\x0f",  # a huge index
        b"\x3f\xe2\x1f",  # a table of 4,097 bytes
        b"\x88\x20",  # a change of the table after a header
        b"\x40\x85abc",  # a text that is cut off
        b"\x40\x81\x00\x00",  # wrong padding
        b"\x40\x84\xff\xff\xff\xff\x00",  # the end of a text within the text
        b"\x40\x01a\x7f\xff\xff\x03" + b"v" * 65_536,  # a header that is too large
    ],
    ids=repr,
)  # fmt: skip
def test_malformed_blocks_are_refused(block: bytes) -> None:
    with pytest.raises(HeaderError):
        HeaderDecoder().decode(block)
