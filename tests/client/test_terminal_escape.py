"""Escapes on terminals for hostile text and extreme numbers from a lying daemon."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client.cli import escape
from hostmanager_client.cli.app import COMMANDS

from tests.client.cli_runner import command_line, make_runner
from tests.client.fake_daemon import FakeDaemon

# Title, clipboard, link, clear, conceal, query; C1; overwrite; reordering and invisible characters; markup.
HOSTILE = (
    "\x1b]0;title\x07\x1b]52;c;bWFya2Vy\x07\x1b]8;;http://x.invalid\x1b\\link\x1b]8;;\x1b\\\x1b[2J\x1b[8mhid\x1b[6n\x1bP+q\x1b\\"
    "\x9b31m\x9d0;title\x9c\rover\x08\x7f\u202eder\u2066iso\u2069\u200bzw\ufeff\u2028ls\U000e0041tag"
    "\n[bold red]markup[/] [link=http://x.invalid]l[/link] :boom: forged line"
)
COMMAND = [sys.executable, "-c", "from hostmanager_client.cli import main; main()"]
COMMAND_LINES: list[tuple[str, ...]] = [
    ("status",),
    ("watch",),
    ("watch", "--json"),
    ("why",),
    ("show", "x"),
    ("show", "x", "--json"),
    ("status", "--wide"),
    ("top",),
    ("top", "--once", "--json"),
    ("up", "x"),
    ("down", "x", "--wait", "--timeout", "0.5"),
    ("restart", "x"),
    ("signal", "x", "HUP"),
    ("hold", "x"),
    ("run", "x"),
    ("run", "x", "--json"),
    ("release", "x"),
    ("update", "all=up"),
    ("update", "all=up", "--json"),
    ("reload",),
    ("reload", "--wait", "--timeout", "0.5"),
    ("logs", "x"),
    ("logs", "x", "--json"),
    ("events",),
    ("events", "--json"),
    ("pull",),
    ("pull", "--json"),
    ("orphans", "list"),
    ("orphans", "remove"),
    ("manager", "status"),
    ("manager", "start"),
    ("manager", "stop"),
    ("upgrade",),
    ("upgrade", "--check"),
    ("die", "--yes"),
    ("completion", "bash"),
]


NUMBERS = {
    FieldDescriptor.TYPE_INT64: (2**63 - 1, -(2**63)),
    FieldDescriptor.TYPE_UINT64: (2**64 - 1, 0),
    FieldDescriptor.TYPE_INT32: (2**31 - 1, -(2**31)),
    FieldDescriptor.TYPE_UINT32: (2**32 - 1, 0),
    FieldDescriptor.TYPE_DOUBLE: (float("nan"), float("-inf")),
    FieldDescriptor.TYPE_FLOAT: (float("nan"), float("-inf")),
    FieldDescriptor.TYPE_ENUM: (2**31 - 1, -1),
}


def extreme(message: Message, which: int, depth: int = 0) -> Any:
    """Set every number of a message, including times, to its largest (`which` 0) or smallest (1) value."""
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.type in NUMBERS and not field.is_repeated:
            setattr(message, field.name, NUMBERS[field.type][which])
        elif field.message_type is not None and depth < 6 and not field.message_type.GetOptions().map_entry:
            extreme(value.add() if field.is_repeated else value, which, depth + 1)
    return message


def hostile(message: Message, depth: int = 0) -> Any:
    """Fill every string field, including repeated fields, maps and nested messages."""
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entry = field.message_type.fields_by_name["value"]
            if entry.message_type is not None:
                hostile(value[HOSTILE], depth + 1)
            else:
                value[HOSTILE] = HOSTILE
        elif field.type == FieldDescriptor.TYPE_STRING:
            if field.is_repeated:
                value.append(HOSTILE)
            else:
                setattr(message, field.name, HOSTILE)
        elif field.message_type is not None and depth < 6 and field.message_type.full_name[:6] != "google":
            hostile(value.add() if field.is_repeated else value, depth + 1)
    return message


class LyingDaemon(FakeDaemon):
    """A daemon that puts hostile text into every string field of its answers."""

    lie: grpc.StatusCode | None = None
    numbers: int | None = None  # index into NUMBERS; None for normal numbers

    def _enter(self, request: Message, context: grpc.ServicerContext) -> None:
        if self.lie is not None:
            self._fail(context, self.lie, HOSTILE, HOSTILE, [(HOSTILE, HOSTILE)])


def instance(numbers: int | None) -> pb.ManagedInstance:
    made: pb.ManagedInstance = hostile(pb.ManagedInstance())
    if numbers is not None:
        return extreme(made, numbers)  # type: ignore[no-any-return]
    made.observed_generation = made.generation = 1
    made.next_action, made.operable = pb.NEXT_ACTION_WAIT_START, True
    return made


def lie(name: str, answer: type[Message]) -> Any:
    def unary(self: LyingDaemon, request: Any, context: Any) -> Any:
        self._enter(request, context)
        made = hostile(answer())
        if self.numbers is not None:
            extreme(made, self.numbers)
        if isinstance(made, pb.GetStatusResponse):
            self.revision += 1
            made.manager.epoch += str(self.revision)  # a new epoch for each call, as `upgrade` waits for one
        if isinstance(made, pb.ListInstancesResponse | pb.ListEventsResponse):
            made.next_page_token = ""
        if isinstance(made, pb.ListInstancesResponse):
            del made.instances[:]
            made.instances.append(instance(self.numbers))
        if isinstance(made, pb.GetInstanceResponse):
            made.instance.CopyFrom(instance(self.numbers))
        return made

    def stream(self: LyingDaemon, request: Any, context: Any) -> Iterator[Any]:
        self._enter(request, context)
        made = hostile(answer())
        if self.numbers is not None:
            extreme(made, self.numbers)
        if isinstance(made, pb.WatchStatusResponse):
            made.ClearField("update")
            made.snapshot.first = made.snapshot.last = True
            hostile(made.snapshot.manager)
            made.snapshot.instances.append(instance(self.numbers))
        if isinstance(made, pb.TailLogsResponse):
            made.lines.add(text=f"\x1b[01;31m\x1b[Kred {HOSTILE}")
        if isinstance(made, pb.DockerPullResponse):
            made.ClearField("result")
            made.images[0].layers[0].total = 10
            yield made
            made.images[0].state = pb.ImagePull.STATE_FAILED
            made.result.failed = 1
        yield made
        if isinstance(made, pb.WatchStatusResponse | pb.WatchEventsResponse | pb.WatchUsageResponse):
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, HOSTILE)

    streams = (
        "Run", "WatchStatus", "WatchEvents", "WatchUsage", "TailLogs", "DockerPull", "RemoveOrphans",
    )  # fmt: skip
    return stream if name in streams else unary


for _method in pb.DESCRIPTOR.services_by_name["HostManagerService"].methods:
    setattr(LyingDaemon, _method.name, lie(_method.name, getattr(pb, _method.output_type.name)))


@pytest.fixture
def lying(socket: Path) -> Iterator[LyingDaemon]:
    daemon = LyingDaemon(socket)
    daemon.start()
    yield daemon
    daemon.stop()


def on_a_terminal(socket: Path, *args: str, env: dict[str, str] | None = None) -> str:
    """Run the command line on a terminal and return the output that the terminal received."""
    controller, terminal = pty.openpty()
    environment = {**os.environ, "HOSTMANAGER_ADDRESS": str(socket), "TERM": "xterm", "COLUMNS": "3000"}
    process = subprocess.Popen(
        [*COMMAND, *args], env={**environment, **(env or {})}, stdin=subprocess.DEVNULL, stdout=terminal,
        stderr=terminal,
    )  # fmt: skip
    os.close(terminal)
    received = b""
    try:
        while piece := os.read(controller, 65536):
            received += piece
    except OSError:  # the terminal is closed at the other end
        pass
    os.close(controller)
    process.wait(60)
    return received.decode()


# Permitted sequences of the program: colours and the cursor movements of the live displays.
OWN = re.compile(
    r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[[0-9]*[AK]|\r(?=\n)|\r(?=\x1b\[2?K)|\r(?=\x1b\[1A)|[\n\t]"
)


def dangerous(text: str) -> list[str]:
    """Return the control and invisible characters outside the permitted sequences."""
    rest = OWN.sub("", text)
    return [hex(ord(c)) for c in rest if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")]


@pytest.mark.parametrize("args", COMMAND_LINES, ids=" ".join)
def test_hostile_text_reaches_a_terminal_only_escaped(lying: LyingDaemon, args: tuple[str, ...]) -> None:
    shown = on_a_terminal(lying.socket, *args)
    assert dangerous(shown) == []
    assert "\x1b[8m" not in shown
    assert "Traceback" not in shown
    assert "This is a bug" not in shown
    assert not re.search(r"^\W*(forged|\[bold|markup)", shown, re.MULTILINE), "a newline started a line"
    if "reload" not in args and args[0] not in ("completion", "manager", "die", "signal", "hold", "release"):
        assert "[bold red]markup[/]" in shown, "interpreted as markup"


@pytest.mark.parametrize("args", COMMAND_LINES, ids=" ".join)
def test_a_hostile_error_reaches_a_terminal_only_escaped(lying: LyingDaemon, args: tuple[str, ...]) -> None:
    lying.lie = grpc.StatusCode.FAILED_PRECONDITION
    shown = on_a_terminal(lying.socket, *args)
    assert dangerous(shown) == []
    assert args[0] == "completion" or "[bold red]markup[/]" in shown


@pytest.mark.parametrize("which", [0, 1], ids=["largest", "smallest"])
@pytest.mark.parametrize("args", COMMAND_LINES, ids=" ".join)
def test_extreme_numbers_break_no_command(lying: LyingDaemon, args: tuple[str, ...], which: int) -> None:
    lying.numbers = which
    if args[0] in ("watch", "pull") or "--wait" in args:  # these have a live display
        shown = on_a_terminal(lying.socket, *args)
        assert "This is a bug" not in shown
    else:
        result = make_runner().invoke(command_line, args, env={"HOSTMANAGER_ADDRESS": str(lying.socket)})
        assert result.exception is None or isinstance(result.exception, SystemExit)
        shown = result.output
    assert "NaN" not in shown


def test_the_list_has_every_command() -> None:
    """Every command must be in the list."""
    assert {args[0] for args in COMMAND_LINES} == set(COMMANDS)


def test_ids_that_need_quotes_in_a_shell_are_not_completed(daemon: FakeDaemon) -> None:
    for name in ("data1", "data$(touch marker)", "data;x", "data\x1b[2J", "data\nplain,forged"):
        daemon.add(name)
    environment = {
        **os.environ, "HOSTMANAGER_ADDRESS": str(daemon.socket), "COMP_CWORD": "2",
        "COMP_WORDS": "hostmanager show da", "_HOSTMANAGER_COMPLETE": "bash_complete",
    }  # fmt: skip
    done = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "plain,data1\n"


def test_logs_keep_their_colours_on_a_terminal_and_end_them_with_the_line(daemon: FakeDaemon) -> None:
    daemon.add("data1")
    daemon.write("data1", "\x1b[01;31m\x1b[Kred\tand more", "plain", "\x1b[8mconcealed\x1b[0m\r")
    shown = on_a_terminal(daemon.socket, "logs", "data1")
    assert shown == "\x1b[01;31mred\tand more\x1b[0m\r\nplain\r\n\\x1b[8mconcealed\x1b[0m\r\n"


def test_raw_logs_are_unchanged_on_a_terminal_and_in_a_pipe(daemon: FakeDaemon) -> None:
    daemon.add("data1")
    line = "\x1b]0;marker\x07\x1b[31mred \x9b\u202e\r"
    daemon.write("data1", line)
    assert on_a_terminal(daemon.socket, "logs", "data1", "--raw") == f"{line}\r\n"
    environment = {**os.environ, "HOSTMANAGER_ADDRESS": str(daemon.socket)}
    done = subprocess.run(
        [*COMMAND, "logs", "data1", "--raw"], env=environment, capture_output=True, check=True
    )
    assert done.stdout.decode() == f"{line}\n"


def test_an_encoding_that_click_would_replace_is_filtered_too(daemon: FakeDaemon) -> None:
    daemon.add("data1")
    daemon.write("data1", "\x1b[2J\xe9\u202e")
    shown = on_a_terminal(daemon.socket, "logs", "data1", env={"PYTHONIOENCODING": "ascii"})
    assert shown == "\\x1b[2J\xe9\\u202e\r\n"


def test_json_keeps_its_content(daemon: FakeDaemon) -> None:
    daemon.add("data1")
    daemon.write("data1", HOSTILE)
    shown = on_a_terminal(daemon.socket, "logs", "data1", "--json")
    assert dangerous(shown) == []
    assert json.loads(shown)["text"] == HOSTILE


def test_every_invisible_character_is_shown() -> None:
    visible = {0x600, 0x601, 0x602, 0x603, 0x604, 0x605, 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
    visible |= set(range(0x13430, 0x13440))  # visible signs of Arabic, Syriac, Kaithi and Egyptian
    passed = [
        hex(code)
        for code in range(0x110000)
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        and chr(code) not in "\t\n"
        and code not in visible
        and escape.escape(chr(code)) == chr(code)
    ]
    assert passed == []
    assert (
        escape.escape("h\xe9llo \u4e16\u754c \u26a0\ufe0f \U0001f600")
        == "h\xe9llo \u4e16\u754c \u26a0\ufe0f \U0001f600"
    )


def test_commands_print_through_one_module() -> None:
    """Only that module filters the output."""
    folder = Path(escape.__file__).parent
    bare = re.compile(r"\bclick\.(echo|secho)\(|(?<![\w.])print\(|sys\.std(out|err)\.write|\bConsole\(")
    found = {path.name for path in folder.glob("*.py") if bare.search(path.read_text())}
    # completion.py prints a script, app.py the version, __init__.py the last errors.
    assert found == {"output.py", "completion.py", "app.py", "__init__.py"}
