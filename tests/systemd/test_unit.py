"""The text of the unit, read back by the rules of systemd."""

from __future__ import annotations

import os
import re

import pytest
from hostmanager_server.commands.systemd.unit import Unit, UnitError, argument, quoted
from hypothesis import given
from hypothesis import strategies as st

WORDS = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")))
_CODES = {"n": "\n", "t": "\t", "\\": "\\", '"': '"', "'": "'", "s": " "}


def split(line: str) -> list[str]:
    """Split a line into words, by the rules of systemd.syntax(7).

    White space outside quotes separates words; C escapes are replaced everywhere.
    """
    words: list[bytes] = []
    word: bytes | None = None
    quote = ""
    rest = iter(line)
    for char in rest:
        if char == "\\":
            code = next(rest)
            byte = bytes([int(next(rest) + next(rest), 16)]) if code == "x" else _CODES[code].encode()
            word = (word or b"") + byte
        elif quote:
            if char == quote:
                quote = ""
            else:
                word = (word or b"") + char.encode()
        elif char in "\"'":
            quote, word = char, word or b""
        elif char in " \t\n\r":
            words += [] if word is None else [word]
            word = None
        else:
            word = (word or b"") + char.encode()
    assert not quote
    return [os.fsdecode(w) for w in (*words, *([] if word is None else [word]))]


def replaced(word: str, marks: str) -> str:
    """Return a word after systemd replaced specifiers ("%"), or variables too ("%$").

    The word must have neither.
    """
    for mark in marks:
        assert re.fullmatch(rf"(?s)([^{mark}]|{re.escape(mark * 2)})*", word)
        word = word.replace(mark * 2, mark)
    return word


@given(WORDS)
def test_systemd_reads_a_command_line_as_the_same_words(words: list[str]) -> None:
    line = " ".join(map(argument, words))
    assert "\n" not in line
    assert not re.search(r"(^| );( |$)", line)  # `;` would begin another command
    assert [replaced(word, "%$") for word in split(line)] == words


@given(WORDS)
def test_systemd_reads_a_setting_as_the_same_words(words: list[str]) -> None:
    line = " ".join(map(quoted, words))
    assert not line.endswith("\\")  # a backslash would continue the line
    assert [replaced(word, "%") for word in split(line)] == words


def test_bytes_that_are_no_text_are_kept() -> None:
    word = os.fsdecode(b"/data/\xff\xfe x")
    assert split(argument(word)) == [word]


def test_a_program_that_systemd_could_not_start_is_refused() -> None:
    with pytest.raises(UnitError, match="link to it"):
        Unit("hostmanager", "host", "/opt/$x/hostmanager", []).text()


def test_a_unit_of_a_user_depends_on_no_unit_of_the_system() -> None:
    text = Unit("hostmanager", "host", "/bin/hostmanager", [], of_user=True).text()
    assert "docker.service" not in text
    assert "network-online" not in text
    assert "WantedBy=default.target" in text


def test_the_engine_is_wanted_where_compose_services_are_managed() -> None:
    assert "Wants=network-online.target docker.service" in Unit("h", "h", "/h", [], containers=True).text()
