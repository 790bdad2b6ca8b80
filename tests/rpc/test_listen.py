"""Listen addresses: parsing, refusals and socket names."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client.address import parse_address
from hostmanager_client.aio import AsyncHostManagerClient
from hostmanager_client.errors import InvalidAddress
from hostmanager_server.rpc.server import AddressError, Limits, Server, parse_listen

from tests.rpc.harness import run, server_harness


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


def test_a_socket_path_is_relative_to_the_working_directory(
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
        ("unix:", "no socket is named"),
        ("unix://", "absolute path"),
        ("unix://x", "absolute path"),
        ("unix:/run/a,b", "comma"),
        ("unix:/run/", "no socket is named"),
        ("unix:/run/a\0b", "NUL"),
        ("unix:\0b", "NUL"),
        ("unix-abstract:hm", "abstract"),
        ("unix:@hm", "abstract"),
        ("@hm", "abstract"),
    ],
)
def test_other_addresses_are_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(AddressError, match=why):
        parse_listen(text, insecure=True)


def test_tcp_needs_the_insecure_flag() -> None:
    with pytest.raises(AddressError, match="--insecure"):
        parse_listen("127.0.0.1:5555", insecure=False)


NAMES = [
    "a b.sock", " a.sock ", "a%20b.sock", "a%2Fb.sock", "100%.sock", "a#b.sock", "a?b=c.sock",
    "ünï\U0001f52d.sock",
    "a:b.sock", "a;b.sock", "a+b.sock", "'a\"b'.sock", "[a].sock", "a\\b.sock", "a\nb.sock",
    os.fsdecode(b"a\xffb.sock"),
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["unix:{}", "{}", "unix://{}"])
def test_a_socket_name_is_not_decoded(name: str, form: str) -> None:
    async def play(folder: Path) -> None:
        address = form.format(f"{folder}/{name}")
        async with server_harness(folder / "harness") as h:
            listen = parse_listen(address, insecure=False)
            server = Server(h.context, [listen], Limits(), tcp_reflection=False)
            try:
                assert server.bind() == [f"unix:{folder}/{name}"]
                await server.serve()
                assert stat.S_ISSOCK((folder / name).lstat().st_mode)
                reserve = listen.for_admins()
                assert reserve is not None
                assert reserve.socket is not None
                made = [name, reserve.socket.name]
                assert sorted(os.listdir(folder)) == sorted(["harness", *made, *(f"{n}.lock" for n in made)])
                async with AsyncHostManagerClient(address) as client:
                    assert (await client.get_status()).manager.state == pb.MANAGER_STATE_RUNNING
            finally:
                await server.stop()
            assert not (folder / name).exists()

    with tempfile.TemporaryDirectory(prefix="hm-") as folder:
        run(play(Path(folder)))


def test_a_relative_name_leads_server_and_client_to_one_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/operator")
    for text in (
        "unix:a%20b",
        "unix:./@a",
        "./x//y/./z",
        "~/x",
        "unix:~/x",
        "unix:~nobody-of-this-name/x",
        "../x/y",
    ):
        assert parse_listen(text, insecure=False).text == str(parse_address(text)), text


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("unix:/d/x", "unix:/d/x"),
        ("unix:/d/ a.sock", "unix:/d/ a.sock"),
        ("unix: a.sock", "unix:/d/ a.sock"),
        ("unix:/d/a.sock ", "unix:/d/a.sock "),
        ("/d/a.sock ", "unix:/d/a.sock "),
        ("./a://b", "unix:/d/a:/b"),
        ("unix:dns://x", "unix:/d/dns:/x"),
        ("/d/../x", "unix:/d/../x"),
        ("/d/..x", "unix:/d/..x"),
        ("[::1]:5", "[::1]:5"),
        ("[localhost]:5", "localhost:5"),
        ("localhost:00005", "localhost:5"),
        ("127.0.0.1:5", "127.0.0.1:5"),
        *((text, None) for text in (
            " unix:/d/x", "\tunix:/d/x", "\nunix:/d/x", " /d/x", " x/y", " 127.0.0.1:5", "127.0.0.1:5 ",
            "127.0.0.1: 5", "127.0.0.1:5\n",
            "dns:///x:1", "dns:///127.0.0.1:1", "ipv4:127.0.0.1:1", "http://localhost:1", "vsock://1:2",
            "::1:5", "::1]:5", "[::1:5", "[[::1]]:5", "[]:5", "[:5", "]:5",
            "unix:/d/..", "unix:/d/.", "unix:.", "unix:..", "/d/.", "./..", "unix:///d/..", "unix:///.",
            "localhost:000005", "localhost:" + "1" * 5000, "localhost:-1",
            "unix-abstract:hm", "unix:@hm", "@hm", "unix:\0hm", "unix:", "unix:/run/a,b",
        )),
    ],
)  # fmt: skip
def test_server_and_client_read_an_address_alike(
    monkeypatch: pytest.MonkeyPatch, text: str, meant: str | None
) -> None:
    monkeypatch.setattr("os.getcwd", lambda: "/d")
    if meant is not None:
        assert (parse_listen(text, insecure=True).text, str(parse_address(text))) == (meant, meant)
        return
    with pytest.raises(AddressError, match="cannot listen"):
        parse_listen(text, insecure=True)
    with pytest.raises(InvalidAddress, match="cannot use"):
        parse_address(text)
