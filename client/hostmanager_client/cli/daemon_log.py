"""The work of `logs --daemon`: the daemon's own log, from the daemon or, without one, from its file."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hostmanager_client.cli.follow import connection_reporter
from hostmanager_client.cli.output import print_json, print_line, print_log
from hostmanager_client.cli.reader import until_reader_leaves
from hostmanager_client.errors import Unreachable

if TYPE_CHECKING:
    from hostmanager.v1 import host_manager_pb2 as pb

    from hostmanager_client.cli.cli_session import CliSession

_LONGEST_READ = 4 * 1024 * 1024  # bytes


def show_daemon_log(session: CliSession, lines: int, *, follow: bool, raw: bool) -> None:
    """Print the last lines of the daemon's log, then with `follow` every new line.

    Without an answer, prints the end of the file in the default state directory, and raises Unreachable.
    """
    try:
        with session.connect() as client, until_reader_leaves(client.close):
            report = connection_reporter(as_json=session.json)
            for line in client.tail_daemon_log(lines=lines, follow=follow, on_connection=report):
                _show(line, as_json=session.json, raw=raw)
    except Unreachable:
        file = next(filter(os.path.isfile, _places()), None)
        if file is None or session.json:
            raise
        print_line(f"no daemon answers; the end of {file}:", err=True)
        for text in _last_lines(file, lines):
            print_log(text, continues=False, raw=raw)
        raise


def _show(line: pb.LogLine, *, as_json: bool, raw: bool) -> None:
    if as_json:
        from hostmanager_client.words import to_json

        print_json(to_json(line), lines=True)
    else:
        print_log(line.text, continues=line.continues, raw=raw)


def _places() -> Iterator[Path]:
    """Yield the paths at which the daemon of this user keeps its log by default."""
    if given := os.environ.get("HOSTMANAGER_STATE_DIR"):
        yield Path(given) / "daemon.log"
    elif os.geteuid() == 0:
        yield Path("/var/lib/hostmanager/daemon.log")
    else:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        yield Path(state) / "hostmanager" / "daemon.log"


def _last_lines(file: Path, count: int) -> list[str]:
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, file.stat().st_size - _LONGEST_READ))
            found = deque(opened, maxlen=count)
    except OSError:
        return []
    return [line.decode(errors="replace").rstrip("\n") for line in found]
