"""The command `hostmanager logs`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from hostmanager_client.cli.cli_session import CliSession, pass_session
from hostmanager_client.cli.log_text import LogFilter, LogPrinter, LogStyle, last
from hostmanager_client.cli.moments import read_moment
from hostmanager_client.cli.options import common_options, ids_argument
from hostmanager_client.cli.output import print_json
from hostmanager_client.errors import HostManagerError

if TYPE_CHECKING:
    from hostmanager.v1 import host_manager_pb2 as pb

    from hostmanager_client.log_stream import LogQuery
    from hostmanager_client.sync import HostManagerClient

DEFAULT_LINES = 100


@click.command("logs")
@ids_argument()
@click.option("--daemon", is_flag=True, help="The log of the daemon instead of an instance's output.")
@click.option("--follow", "-f", is_flag=True, help="Then print every new line.")
@click.option(
    "--lines",
    "-n",
    type=click.IntRange(0, 100_000),
    help="Number of past lines of each instance. Default: 100; all with --since, --until or --previous.",
)
@click.option(
    "--since",
    metavar="TIME",
    callback=read_moment,
    help="Only lines since this time: 15m (ago), 16:20, yesterday, or '2026-11-28 16:20'.",
)
@click.option("--until", metavar="TIME", callback=read_moment, help="Only lines up to this time.")
@click.option("--previous", "-p", is_flag=True, help="Only the output of the latest run that has ended.")
@click.option(
    "--grep", "-g", metavar="REGEX", help="Only the last lines that match a regular expression (Python)."
)
@click.option("--ignore-case", "-i", is_flag=True, help="Let --grep ignore case.")
@click.option("--invert", "-v", is_flag=True, help="Only lines that --grep does not match.")
@click.option("--times", "-t", is_flag=True, help="Print the time before each line; '-' if unknown.")
@click.option(
    "--prefix/--no-prefix", default=None, help="Print the id before each line. Default: with several ids."
)
@click.option("--raw", is_flag=True, help="Print the output unchanged, control characters included.")
@common_options
def logs_command(
    instance_ids: tuple[str, ...],
    *,
    daemon: bool,
    follow: bool,
    lines: int | None,
    since: datetime | None,
    until: datetime | None,
    previous: bool,
    grep: str | None,
    ignore_case: bool,
    invert: bool,
    times: bool,
    prefix: bool | None,
    raw: bool,
) -> None:
    """Show the last output lines of instances, several in the order of their times; or the daemon's own log.

    An ID may be a selector such as 'thermo*', class:Camera or @rack=3. On a terminal, colours pass and other
    control characters appear as escapes such as \\x1b; to a pipe or a file, colours are left out. Of a
    progress bar, the last state appears.

    \b
      hostmanager logs -n 20 thermo1             the last 20 lines
      hostmanager logs -f 'thermo*' cryo         follow several instances, until Ctrl-C
      hostmanager logs thermo1 --since 15m -t    the last 15 minutes, with times
      hostmanager logs thermo1 --previous        what the run before this one wrote
      hostmanager logs thermo1 --grep 'error|warn' -i
      hostmanager logs --daemon -n 50            what the daemon logged last
    """
    from hostmanager_client.log_stream import MOST_LINES, LogQuery

    if bool(instance_ids) is daemon:
        raise click.UsageError("Name an instance, or use --daemon, not both.")
    if follow and (previous or until is not None):
        raise click.UsageError(f"--follow and {'--previous' if previous else '--until'} exclude each other.")
    if since is not None and until is not None and until.timestamp() < since.timestamp():
        raise click.UsageError("--until lies before --since.")
    chosen = _filter(grep, ignore_case=ignore_case, invert=invert)
    # Among how many past lines to search: a follower shows those of before at once, so it asks for few.
    asked = MOST_LINES if chosen is not None and not follow else lines
    bounded = since is not None or until is not None or previous
    wanted = lines if lines is not None or bounded else DEFAULT_LINES
    session = pass_session()
    if daemon:
        if chosen is not None or bounded or times or prefix:
            raise click.UsageError("--daemon goes with --follow, --lines and --raw only.")
        from hostmanager_client.cli.daemon_log import show_daemon_log

        show_daemon_log(session, DEFAULT_LINES if lines is None else lines, follow=follow, raw=raw)
        return
    reading = _Reading(session, LogQuery(asked, follow, since, until, previous), chosen, wanted)
    from hostmanager_client.cli.reader import until_reader_leaves
    from hostmanager_client.cli.selection import names_of, resolve_ids
    from hostmanager_client.selectors import Selector

    with session.connect() as client, until_reader_leaves(client.close):
        ids = resolve_ids(client, instance_ids)
        if prefix is None:
            prefix = len(ids) > 1 or any(isinstance(name, Selector) for name in names_of(instance_ids))
        reading.show(client, ids, LogStyle(ids if prefix else (), times, raw))
    reading.finish()


def _filter(grep: str | None, *, ignore_case: bool, invert: bool) -> LogFilter | None:
    if grep is None:
        if ignore_case or invert:
            raise click.UsageError("--ignore-case and --invert need --grep.")
        return None
    try:
        return LogFilter(grep, ignore_case=ignore_case, invert=invert)
    except re.error as error:
        raise click.UsageError(f"cannot use --grep {grep!r}: {error}.") from error


class _Reading:
    """One run of the command."""

    def __init__(
        self, session: CliSession, query: LogQuery, chosen: LogFilter | None, wanted: int | None
    ) -> None:
        self._session = session
        self._query = query
        self._filter = chosen
        self._wanted = wanted  # of the lines that the filter chooses; None: all
        self._error: HostManagerError | None = None

    def show(self, client: HostManagerClient, ids: Sequence[str], style: LogStyle) -> None:
        """Print the lines of the instances."""
        printer = LogPrinter(style)
        lines = self._lines(client, ids)
        if self._filter is not None:
            lines = self._chosen(lines)
        for instance_id, line in lines:
            if self._session.json:
                from hostmanager_client.words import to_json

                print_json({"instance_id": instance_id, **to_json(line)}, lines=True)
            else:
                printer.show(instance_id, line)
        printer.end()

    def finish(self) -> None:
        """Raise the error of the first instance that could not be read."""
        if self._error is not None:
            raise click.exceptions.Exit(_exit_code(self._error))

    def _lines(self, client: HostManagerClient, ids: Sequence[str]) -> Iterator[tuple[str, pb.LogLine]]:
        from hostmanager_client.cli.follow import connection_reporter

        query, report = self._query, connection_reporter(as_json=self._session.json)
        if len(ids) == 1:
            for line in client.tail_logs(
                ids[0], lines=query.lines, follow=query.follow, since=query.since, until=query.until,
                previous=query.previous, on_connection=report,
            ):  # fmt: skip
                yield ids[0], line
            return
        for each in client.tail_all_logs(
            ids, lines=query.lines, follow=query.follow, since=query.since, until=query.until,
            previous=query.previous, on_error=self._report, on_connection=report,
        ):  # fmt: skip
            yield each.instance_id, each.line

    def _chosen(self, lines: Iterator[tuple[str, pb.LogLine]]) -> Iterator[tuple[str, pb.LogLine]]:
        """Return the lines that the filter accepts, and of those up to now the wanted number."""
        assert self._filter is not None
        found = (each for each in lines if self._filter.accepts(*each))
        return found if self._query.follow or self._wanted is None else last(found, self._wanted)

    def _report(self, instance_id: str, error: HostManagerError) -> None:
        """Print the error of one of several instances; the others continue."""
        from hostmanager_client.cli.failure import show_error

        self._error = self._error or error
        show_error(error, as_json=self._session.json)


def _exit_code(error: HostManagerError) -> int:
    from hostmanager_client.cli.failure import exit_code

    return exit_code(error)
