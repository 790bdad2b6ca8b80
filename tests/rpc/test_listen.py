"""Where the daemon may listen."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostmanager_server.rpc.server import AddressError, parse_listen


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/x.sock", "unix:/run/x.sock"),
        ("unix:///run/x.sock", "unix:/run/x.sock"),
        ("/run/x.sock", "unix:/run/x.sock"),
        ("127.0.0.1:5555", "127.0.0.1:5555"),
        ("localhost:0", "localhost:0"),
        ("[::1]:5555", "[::1]:5555"),
    ],
)
def test_sockets_and_loopback_addresses_are_served(text: str, address: str) -> None:
    assert parse_listen(text, insecure=True).text == address


def test_a_relative_socket_path_is_relative_to_where_you_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_listen("unix:hm.sock", insecure=False).socket == tmp_path / "hm.sock"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "HOST:PORT"),
        ("5555", "HOST:PORT"),
        (":5555", "HOST:PORT"),
        ("localhost:", "HOST:PORT"),
        ("localhost:65536", "HOST:PORT"),
        ("localhost:²", "HOST:PORT"),
        ("localhost:" + "1" * 5000, "HOST:PORT"),
        ("0.0.0.0:5555", "only loopback"),
        ("observatory.example:5555", "only loopback"),
        ("unix:/" + "x" * 200, "107 bytes"),
    ],
)
def test_other_addresses_are_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(AddressError, match=why):
        parse_listen(text, insecure=True)


def test_tcp_needs_to_be_asked_for() -> None:
    with pytest.raises(AddressError, match="--insecure"):
        parse_listen("127.0.0.1:5555", insecure=False)
