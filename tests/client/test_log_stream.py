"""Log lines after a lost connection, with the old lines in several messages."""

from __future__ import annotations

from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client.log_stream import LogQuery, LogStream

LONG = "x" * 400


def message(first: int, last: int, filler: str = LONG) -> pb.TailLogsResponse:
    lines = [pb.LogLine(text=f"{number} {filler}") for number in range(first, last + 1)]
    return pb.TailLogsResponse(lines=lines)


def numbers(lines: object) -> list[int]:
    assert isinstance(lines, list | tuple)
    return [int(line.text.split()[0]) for line in lines]


def reopened(last_seen: int) -> LogStream:
    stream = LogStream("data1", LogQuery(3, follow=True), silence=None)
    stream.receive(message(last_seen - 2, last_seen))
    stream.disconnected()
    assert stream.request().lines == 500
    return stream


def test_known_lines_are_dropped_for_every_split_into_messages() -> None:
    stream = reopened(last_seen=400)
    assert numbers(stream.receive(message(1, 150))) == []
    assert stream.undecided
    assert numbers(stream.receive(message(151, 300))) == []
    assert numbers(stream.receive(message(301, 450))) == list(range(401, 451))
    assert (stream.undecided, stream.complete) == (False, True)
    assert numbers(stream.receive(message(451, 452))) == [451, 452]


def test_without_overlap_all_lines_are_shown_and_the_stream_is_incomplete() -> None:
    stream = reopened(last_seen=5)
    assert numbers(stream.receive(message(101, 250))) == []
    assert numbers(stream.receive(message(251, 260))) == list(range(101, 261))
    assert (stream.undecided, stream.complete) == (False, False)


def test_the_requested_number_of_old_lines_suffices_to_decide() -> None:
    stream = reopened(last_seen=5)
    assert numbers(stream.receive(message(101, 350))) == []
    assert len(numbers(stream.receive(message(351, 600)))) == 500
    assert not stream.complete


def test_a_second_loss_during_the_old_lines_starts_over() -> None:
    stream = reopened(last_seen=400)
    stream.receive(message(1, 150))
    stream.disconnected()
    assert not stream.undecided
    assert numbers(stream.receive(message(301, 410))) == list(range(401, 411))
