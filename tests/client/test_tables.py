"""Tables of the command line: widths of text, and the columns that a terminal has room for."""

from __future__ import annotations

import itertools
import sys

import pytest
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client.cli import plain
from hostmanager_client.cli.tables.instances import columns_for
from hostmanager_client.cli.tables.layout import Column, table
from hostmanager_client.cli.tables.width import cut, cut_middle, display_width, pad, wrap, wrap_styled
from hostmanager_client.cli.text import Cell
from wcwidth import wcswidth

NOW = 1_000_000.0
REASON = 'code 3, 0.6 s ago: "no sensor at /dev/ttyS0"; restarting in 1.0 s (attempt 6)'
ALL = ["INSTANCE", "CLASS", "TARGET", "STATE", "SINCE", "PID", "RESTARTS", "STABILITY", "MESSAGE"]


def status_table(width: int | None, message: str = REASON, name: str = "thermo-rack-01") -> list[str]:
    bad = pb.ManagedInstance(
        instance_id=name, agent_class="Lakeshore240", target_state=pb.TARGET_STATE_UP,
        next_action=pb.NEXT_ACTION_UNKNOWN, reason="NotOperable", message=message,
    )  # fmt: skip
    good = pb.ManagedInstance(
        instance_id="data1", agent_class="FakeData", target_state=pb.TARGET_STATE_UP,
        next_action=pb.NEXT_ACTION_UP, reason="Running", message="running",
    )  # fmt: skip
    good.process.pid = 4301
    good.start_time.seconds = 999_000
    columns = columns_for([bad, good])
    rows = [[column.cell(one, NOW) for column in columns] for one in (bad, good)]
    return [line.replace("\x1b[0m", "") for line in table([c.layout for c in columns], rows, width)]


def visible(line: str) -> str:
    from hostmanager_client.cli.escape import without_styles

    return without_styles(line)


@pytest.mark.parametrize("width", range(60, 201))
def test_the_table_fits_every_width_and_keeps_name_state_and_whole_words(width: int) -> None:
    lines = [visible(line) for line in status_table(width)]
    assert max(map(display_width, lines)) <= width
    titles = lines[0].split()
    assert titles == [title for title in ALL if title in titles], "the order stays"
    assert {"INSTANCE", "STATE", "MESSAGE"} <= set(titles)
    message = lines[0].index("MESSAGE")
    rows = list(itertools.takewhile(lambda line: not line.startswith("data1"), lines[1:]))
    assert " ".join(line[message:].strip() for line in rows) == REASON
    assert all(line[:message].strip() == "" for line in rows[1:])


def test_a_wider_terminal_never_shows_fewer_columns() -> None:
    counts = [len(visible(status_table(width)[0]).split()) for width in range(40, 201)]
    assert counts == sorted(counts)
    assert counts[-1] == len(ALL)


def test_a_table_for_no_terminal_has_all_columns_and_a_line_for_each_row() -> None:
    lines = [visible(line) for line in status_table(None, message=REASON * 5)]
    assert lines[0].split() == ALL
    assert len(lines) == 3
    assert lines[1].endswith(REASON)


def test_a_very_long_name_leaves_room_for_the_message_and_keeps_its_end() -> None:
    lines = [visible(line) for line in status_table(60, name="a-very-long-name-of-an-instance-number-01")]
    assert max(map(len, lines)) <= 60
    name = lines[1].split()[0]
    assert name.startswith("a-very")
    assert name.endswith("-01")
    assert "…" in name


@pytest.mark.parametrize(
    "text",
    ["温度センサー", "e\u0301te\u0301", "Größe", "한글", "🌡 21 °C", "ﾊﾝｶｸ", "นี้", "\u1112\u1161\u11ab", ""],
)
def test_widths_are_those_of_terminals(text: str) -> None:
    assert display_width(text) == wcswidth(text)


def test_wide_characters_keep_columns_aligned_and_inside_the_width() -> None:
    columns = [Column("NAME", name=True), Column("STATE"), Column("TEXT", text=True)]
    rows = [
        [Cell("温度センサー"), Cell("up"), Cell("読み取りに失敗しました。" * 4)],
        [Cell("cafe\u0301"), Cell("down"), Cell("fine")],
        [Cell("plain"), Cell("up"), Cell("")],
    ]
    lines = table(columns, rows, 50)
    assert max(map(display_width, map(visible, lines))) <= 50
    starts = {
        display_width(line[: line.index(word)]) for line, word in zip(lines[-2:], ("down", "up"), strict=True)
    }
    assert starts == {display_width("温度センサー") + 2}
    assert "".join(visible(line)[-1] for line in lines).count("。") >= 1
    assert "".join("".join(map(visible, lines)).split()).count("しました") == 4


def test_text_is_cut_between_characters() -> None:
    assert cut("温度センサー", 6) == "温度…"
    assert cut("e\u0301te\u0301s", 3) == "e\u0301t…"
    assert cut_middle("thermo-rack-01", 9) == "ther…k-01"
    assert display_width(cut_middle("温度センサー温度", 9)) <= 9
    assert pad("温", 4) + "|" == "温  |"
    assert pad("7", 3, right=True) == "  7"


def test_lines_break_between_words_only() -> None:
    assert wrap("aa bb cc", 5) == ["aa bb", "cc"]
    assert wrap("a/long/path x", 6) == ["a/lon…", "x"]
    assert wrap("", 5) == [""]
    assert wrap_styled("\x1b[31mred\x1b[0m and/very/long/path", 8) == "\x1b[31mred\x1b[0m\nand/very/long/path"


def test_a_terminal_without_a_character_gets_a_plain_form_of_the_same_width(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain.register()

    class Latin1:
        encoding = "iso-8859-1"

    monkeypatch.setattr(sys, "stdout", Latin1())
    assert plain.displayable("a…b · ü 温") == "a~b · ü \\u6e29"
    assert "温…→".encode("ascii", plain.HANDLER) == b"\\u6e29~>"


def test_the_locale_c_gets_plain_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        monkeypatch.delenv(name, raising=False)
    assert plain.displayable("1 up · x…") == "1 up · x…"
    monkeypatch.setenv("LANG", "C")
    monkeypatch.setenv("LC_CTYPE", "C.UTF-8")  # as Python sets it in this locale
    assert plain.displayable("1 up · x…") == "1 up | x~"
    monkeypatch.setenv("LC_ALL", "en_GB.UTF-8")
    assert plain.displayable("1 up · x…") == "1 up · x…"
