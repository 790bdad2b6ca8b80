"""The last lines of a run, from its output file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostmanager_server.core.spec import LogPolicy
from hostmanager_server.drivers.output.last_output import CHARACTERS, LINES, last_lines
from hostmanager_server.drivers.output.output_files import OutputFiles
from hostmanager_server.drivers.output.stream import OutputMark, OutputStream
from hypothesis import given
from hypothesis import strategies as st

POLICY = LogPolicy()


@pytest.fixture
def outputs(tmp_path: Path) -> Iterator[OutputFiles]:
    """Create the output files in a directory that exists."""
    files = OutputFiles(tmp_path)
    yield files
    files.close()


def begin(outputs: OutputFiles) -> OutputMark:
    fd = outputs.open_for_append("a", POLICY)
    try:
        return outputs.mark("a", POLICY, fd)
    finally:
        os.close(fd)


def write(outputs: OutputFiles, data: bytes) -> None:
    with open(outputs.open_for_append("a", POLICY), "wb") as file:
        file.write(data)


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"", ""),
        (b"\n \n\r\n", ""),
        (b"one\n\ntwo\n", "one\ntwo"),
        (b"1\n2\n3\n4\n5\n6\nno line end", "3\n4\n5\n6\nno line end"),
        (b"10%\r50%\r100%\ndone\r\n", "100%\ndone"),
        (b"10%\r50%\r", "50%"),
        (b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07end\n", "red end"),
        (b"bell\x07 \xff \xc3\xbc\ttab\n", "bell\\x07 \ufffd ü tab"),
        (b"\0\0\0\0after a hole\n", "after a hole"),
        (b"x" * 600, "x" * (CHARACTERS - 1) + "…"),
        (b"w" * 300 + b"\n" + b"x" * 300, "w" * 198 + "…\n" + "x" * 300),
    ],
)
def test_the_last_lines_are_printable_and_few(data: bytes, shown: str) -> None:
    assert last_lines(data) == shown


def test_a_line_without_its_beginning_counts_only_alone() -> None:
    assert last_lines(b"half\nwhole\n", begins_inside=True) == "whole"
    assert last_lines(b"\xbc half\n", begins_inside=True) == "… half"
    assert last_lines(b"\n" * 4096, begins_inside=True) == ""


@given(data=st.binary(max_size=4096), begins_inside=st.booleans())
def test_the_last_lines_are_bounded(data: bytes, *, begins_inside: bool) -> None:
    text = last_lines(data, begins_inside=begins_inside)
    lines = text.split("\n")
    assert len(text) <= CHARACTERS
    assert len(lines) <= LINES
    assert all(line.isprintable() for line in lines)
    assert not text or all(line.strip() for line in lines)


def test_the_output_of_the_previous_run_does_not_count(outputs: OutputFiles) -> None:
    write(outputs, b"of the first run, unfinished")
    second = begin(outputs)
    assert outputs.last_output("a", POLICY, second) == ""
    write(outputs, b"of the second\n")
    assert outputs.last_output("a", POLICY, second) == "of the second"


def test_a_run_keeps_its_place_over_a_rotation(outputs: OutputFiles) -> None:
    policy = LogPolicy(size=64 * 1024)
    write(outputs, b"of the first run\n" * 20_000)
    second = begin(outputs)
    stream = outputs._stream("a", policy)
    assert stream.rotate(policy.size, 5)
    assert outputs.last_output("a", POLICY, second) == ""
    write(outputs, b"of the second\n" * 20_000 + b"the last line\n")
    assert stream.rotate(policy.size, 5)
    assert outputs.last_output("a", POLICY, second).endswith("of the second\nthe last line")


def test_a_rotation_at_the_moment_of_the_end_shows_no_earlier_run(
    outputs: OutputFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(outputs, b"of the first run\n" * 20_000)
    second = begin(outputs)
    stream = outputs._stream("a", POLICY)
    opened = stream.open_live

    def rotate_first(_: OutputStream) -> int:
        monkeypatch.undo()
        assert stream.rotate(64 * 1024, 5)
        return opened()

    monkeypatch.setattr(OutputStream, "open_live", rotate_first)
    assert outputs.last_output("a", POLICY, second) == ""


def test_a_truncated_file_has_only_output_of_the_present_run(outputs: OutputFiles) -> None:
    write(outputs, b"of the first run\n")
    second = begin(outputs)
    os.truncate(outputs.path("a", POLICY), 0)
    write(outputs, b"later\n")
    assert outputs.last_output("a", POLICY, second) == "later"


@pytest.mark.parametrize("instead", ["nothing", "another file", "a link", "a fifo", "a directory"])
def test_a_file_that_is_not_the_run_s_says_nothing(outputs: OutputFiles, instead: str) -> None:
    mark = begin(outputs)
    path = outputs.path("a", POLICY)
    path.rename(path.with_suffix(".kept"))
    other = path.with_suffix(".other")
    other.write_text("secret\n")
    match instead:
        case "another file":
            path.write_text("of another file\n")
        case "a link":
            path.symlink_to(other)
        case "a fifo":
            os.mkfifo(path)
        case "a directory":
            path.mkdir()
    assert outputs.last_output("a", POLICY, mark) == ""
    assert outputs.last_output("a", POLICY, None) == ""


def test_a_run_of_an_earlier_daemon_has_its_recorded_place(outputs: OutputFiles) -> None:
    write(outputs, b"of the first run\n")
    second = begin(outputs)
    write(outputs, b"of the second\n")
    assert outputs.resume_mark("a", POLICY, second) == second
    assert outputs.last_output("a", POLICY, second) == "of the second"


def test_a_lost_place_is_the_present_end(outputs: OutputFiles) -> None:
    write(outputs, b"of any run\n")
    end = begin(outputs)
    shrunk = OutputMark(end.inode, end.size + 1)
    replaced = OutputMark(end.inode + 1, 0)
    for recorded in (None, shrunk, replaced):
        assert outputs.resume_mark("a", POLICY, recorded) == end
    os.unlink(outputs.path("a", POLICY))
    assert outputs.resume_mark("a", POLICY, None) is None


def test_only_the_end_of_a_large_file_is_read(outputs: OutputFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = begin(outputs)
    write(outputs, b"line\n" * 100_000)
    sizes: list[int] = []

    def pread(fd: int, size: int, start: int) -> bytes:
        sizes.append(size)
        return b"x\ny\n"

    monkeypatch.setattr(os, "pread", pread)
    assert outputs.last_output("a", POLICY, mark) == "y"
    assert sizes == [4096]


def test_a_run_that_wrote_nothing_costs_no_opening_of_its_file(
    outputs: OutputFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(outputs, b"of an earlier run\n")
    mark = begin(outputs)

    def refuse(_: object) -> int:
        raise AssertionError("the file was opened")

    monkeypatch.setattr(OutputStream, "open_live", refuse)
    assert outputs.last_output("a", POLICY, mark) == ""
    write(outputs, b"mine\n")
    with pytest.raises(AssertionError, match="opened"):
        outputs.last_output("a", POLICY, mark)
