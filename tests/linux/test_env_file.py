"""Environment files: the meaning of lines, refused lines, and trusted owners."""

from __future__ import annotations

import os
import pwd
import re
import tempfile
from pathlib import Path

import pytest
from hostmanager_server.drivers.exec import command
from hostmanager_server.linux.env_file import RESERVED, EnvFileError, read_env_file
from hostmanager_server.linux.env_format import EnvFormatError, parse_env
from hypothesis import given
from hypothesis import strategies as st

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has files of others")
SECRET = "s3cr3t-value"


def nobody() -> int:
    return pwd.getpwnam("nobody").pw_uid


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "agent.env"
    file.write_text(f"TOKEN={SECRET}\n")
    file.chmod(0o600)
    return file


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        ("", {}),
        ("\n  \n# note\n; note\n", {}),
        ("A=1\nB=2", {"A": "1", "B": "2"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("  A=1  ", {"A": "1"}),
        ("A=", {"A": ""}),
        ("A= two words ", {"A": "two words"}),
        ("A=b=c", {"A": "b=c"}),
        ("A=$HOME ${X} `id`", {"A": "$HOME ${X} `id`"}),
        ("A=a#b", {"A": "a#b"}),
        ('A=it"s', {"A": 'it"s'}),
        ("A=' # not a comment '", {"A": " # not a comment "}),
        (r"A='C:\new'", {"A": r"C:\new"}),
        (r'A="\"\\\$\`\n"', {"A": '"\\$`\\n'}),
        ('A="one\ntwo"\nB=3', {"A": "one\ntwo", "B": "3"}),
        ('A="one\\\ntwo"', {"A": "onetwo"}),
        ("A='one\\\ntwo'  \nB=3", {"A": "one\\\ntwo", "B": "3"}),
        ("A=ü", {"A": "ü"}),
    ],
)
def test_a_file_means_the_same_to_systemd(text: str, variables: dict[str, str]) -> None:
    assert parse_env(text) == variables


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (f"A=1\n{SECRET}", 2, "no '='"),
        (f"export A={SECRET}", 1, "'export'"),
        (f"A ={SECRET}", 1, "blank before the '='"),
        (f"1A={SECRET}", 1, "no name"),
        (f"={SECRET}", 1, "no name"),
        (f"A-B={SECRET}", 1, "no name"),
        (f"A={SECRET} # note", 1, "'#' after a blank"),
        (f"A={SECRET}\\n", 1, "backslash"),
        (f"\n\nA='{SECRET}\n\n", 3, "nothing closes"),
        (f"A='{SECRET}' x", 1, "after the closing quote"),
        (f"A='{SECRET}\nx' y", 2, "after the closing quote"),
        (f"A=1\nB=2\nA={SECRET}", 3, "first in line 1"),
        (f"A={SECRET}\0", 1, "NUL"),
        (f"A={SECRET}\rB=1", 1, "carriage return"),
        (f"A=1\r\nB='{SECRET}\r\nx'", 2, "carriage return"),
    ],
)
def test_a_line_that_programs_read_differently_is_refused_without_its_value(
    text: str, line: int, message: str
) -> None:
    with pytest.raises(EnvFormatError, match=message) as caught:
        parse_env(text)
    assert caught.value.line == line
    assert SECRET not in caught.value.message


@given(st.text(st.characters(codec="utf-8"), max_size=40) | st.text("AB1=' \"\\\\#\n\t$", max_size=30))
def test_any_text_gives_variables_or_an_error_that_quotes_nothing(text: str) -> None:
    error = None
    try:
        found = parse_env(text)
    except EnvFormatError as raised:
        error = raised
    if error is None:
        assert all(name.isidentifier() for name in found)
    else:
        assert 1 <= error.line <= text.count("\n") + 1
        assert not re.search(r"[^\x20-\x7e]", error.message)


def test_an_error_names_file_and_line(file: Path) -> None:
    file.write_text(f"A=1\n{SECRET}\n")
    with pytest.raises(EnvFileError) as caught:
        read_env_file(str(file))
    assert str(caught.value) == f"cannot use env-file '{file}': line 2 has no '='; write NAME=VALUE"


def test_the_digest_is_that_of_the_variables(file: Path) -> None:
    file.write_text("A=1\nB=2\n")
    first = read_env_file(str(file))
    file.write_text("# the same\nB='2'\nA=1\n")
    assert read_env_file(str(file)).digest == first.digest
    file.write_text("A=1\nB=3\n")
    assert read_env_file(str(file)).digest != first.digest


def test_values_are_not_in_the_repr(file: Path) -> None:
    content = read_env_file(str(file))
    assert content.variables == {"TOKEN": SECRET}
    assert SECRET not in repr(content)


@pytest.mark.parametrize("name", sorted(RESERVED | {"NOTIFY_SOCKET", "LISTEN_FDS", "HOSTMANAGER_ENV_0"}))
def test_private_variables_are_refused(file: Path, name: str) -> None:
    file.write_text(f"{name}={SECRET}\n")
    with pytest.raises(EnvFileError, match=f"never receive {name}"):
        read_env_file(str(file))


def test_the_daemon_s_own_markers_are_reserved() -> None:
    assert {command.RUN_MARKER, command.INSTANCE_MARKER} <= RESERVED


def test_a_path_without_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, message in (
        ("none", "No such file"),
        ("pipe", "not a regular file"),
        (".", "not a regular file"),
    ):
        with pytest.raises(EnvFileError, match=message):
            read_env_file(str(tmp_path / name))
    with pytest.raises(EnvFileError, match="null"):
        read_env_file(f"{tmp_path}/a\0b")


def test_a_world_readable_file_gives_a_warning(file: Path) -> None:
    assert read_env_file(str(file)).warnings == ()
    file.chmod(0o644)
    assert read_env_file(str(file)).warnings == (
        f"env-file '{file}': every user of this machine may read the file; chmod o-r",
    )


@as_root
def test_root_refuses_a_file_that_others_may_write(file: Path) -> None:
    file.chmod(0o606)
    with pytest.raises(EnvFileError, match="every user of this machine may write the file"):
        read_env_file(str(file))
    file.chmod(0o660)
    os.chown(file, 0, 12345)
    with pytest.raises(EnvFileError, match="its group may write the file"):
        read_env_file(str(file))


@as_root
def test_root_refuses_a_file_of_another_user_than_the_agent_s(file: Path) -> None:
    os.chown(file, nobody(), 0)
    with pytest.raises(EnvFileError, match="user 'nobody' owns"):
        read_env_file(str(file))
    assert read_env_file(str(file), nobody()).variables == {"TOKEN": SECRET}
    with pytest.raises(EnvFileError, match="user 'nobody' owns"):
        read_env_file(str(file), 12345)


@as_root
@pytest.mark.parametrize("mode", [0o777, 0o757])
def test_root_refuses_a_file_in_a_folder_that_others_may_write(file: Path, mode: int) -> None:
    file.parent.chmod(mode)
    with pytest.raises(EnvFileError, match="may replace the file"):
        read_env_file(str(file))
    file.parent.chmod(mode | 0o1000)
    assert read_env_file(str(file)).variables


@as_root
def test_a_link_of_the_agent_s_user_to_a_file_of_root_is_refused(file: Path) -> None:
    home = file.parent / "home"
    home.mkdir()
    link = home / "my.env"
    link.symlink_to(file)
    os.chown(home, nobody(), 0)
    os.chown(link, nobody(), 0, follow_symlinks=False)
    with pytest.raises(EnvFileError, match="may replace the file, and does not own it") as caught:
        read_env_file(str(link), nobody())
    assert SECRET not in str(caught.value)
    hard = home / "hard.env"
    os.link(file, hard)
    with pytest.raises(EnvFileError, match="may replace the file, and does not own it"):
        read_env_file(str(hard), nobody())


@as_root
def test_a_link_of_root_is_followed(file: Path) -> None:
    link = file.with_name("link.env")
    link.symlink_to(f"../{file.parent.name}/{file.name}")
    assert read_env_file(str(link)).variables == {"TOKEN": SECRET}
    link.unlink()
    link.symlink_to(link.name)
    with pytest.raises(EnvFileError, match="links"):
        read_env_file(str(link))


@as_root
def test_a_daemon_that_is_not_root_warns_where_root_refuses() -> None:
    with tempfile.TemporaryDirectory() as folder:  # other users cannot enter pytest's own directory
        file = Path(folder) / "agent.env"
        file.write_text("A=1\n")
        file.chmod(0o646)
        for each in (folder, file):
            os.chown(each, nobody(), -1)
        os.seteuid(nobody())
        try:
            warnings = read_env_file(str(file)).warnings
        finally:
            os.seteuid(0)
    assert any("every user of this machine may write the file" in warning for warning in warnings)
