"""Parsing of addresses, and the default address."""

from __future__ import annotations

import socket as sockets
from pathlib import Path

import pytest
from hostmanager_client.address import Address, default_address, parse_address
from hostmanager_client.errors import InvalidAddress


@pytest.mark.parametrize(
    ("text", "meant", "target"),
    [
        ("unix:///run/x.sock", "unix:/run/x.sock", "unix:/run/x.sock"),
        ("unix:/run/x.sock", "unix:/run/x.sock", "unix:/run/x.sock"),
        ("/run/x.sock", "unix:/run/x.sock", "unix:/run/x.sock"),
        ("/run/a b%20.sock", "unix:/run/a b%20.sock", "unix:/run/a%20b%2520.sock"),
        ("localhost:8765", "localhost:8765", "dns:///localhost:8765"),
        ("127.0.0.1:1", "127.0.0.1:1", "dns:///127.0.0.1:1"),
        ("[::1]:8765", "[::1]:8765", "dns:///[::1]:8765"),
        ("daq1:8765", "daq1:8765", "dns:///daq1:8765"),
    ],
)
def test_every_form_of_an_address_is_parsed(text: str, meant: str, target: str) -> None:
    address = parse_address(text)
    assert str(address) == meant
    assert address.grpc_target == target
    assert parse_address(str(address)) == address


def test_relative_paths_and_homes_are_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/operator")
    assert parse_address("./x.sock").path == f"{tmp_path}/x.sock"
    assert parse_address("unix:x.sock").path == f"{tmp_path}/x.sock"
    assert parse_address("~/x.sock").path == "/home/operator/x.sock"


@pytest.mark.parametrize(
    "text",
    ["", "garbage", "host:", ":80", "host:0", "host:65536", "host:x", "::1:80", "unix:", "unix://", "unix://x",
     "http://host:80", "/run/", "ho st:80", "host:٣", "/" + "x" * 107],
)  # fmt: skip
def test_a_bad_address_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(InvalidAddress, match="as an address"):
        parse_address(text)


def test_the_variable_has_priority(tmp_path: Path) -> None:
    environ = {"HOSTMANAGER_ADDRESS": "daq1:80", "XDG_RUNTIME_DIR": str(tmp_path)}
    assert default_address(environ, uid=1000) == Address(host="daq1", port=80)


def test_a_user_has_a_private_socket_and_root_the_system_socket(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert default_address(environ, uid=1000).path == f"{tmp_path}/hostmanager/hostmanager.sock"
    assert default_address({}, uid=1000).path == "/tmp/hostmanager-1000/hostmanager.sock"
    assert default_address({}, uid=0).path == "/run/hostmanager/hostmanager.sock"


def test_root_falls_back_to_an_existing_user_socket() -> None:
    if Path("/run/hostmanager/hostmanager.sock").exists():
        pytest.skip("a daemon of the system runs here")
    import tempfile

    with tempfile.TemporaryDirectory(prefix="hm-") as runtime:
        directory = Path(runtime) / "hostmanager"
        directory.mkdir()
        path = directory / "hostmanager.sock"
        with sockets.socket(sockets.AF_UNIX) as server:
            server.bind(str(path))
            assert default_address({"XDG_RUNTIME_DIR": runtime}, uid=0).path == str(path)
