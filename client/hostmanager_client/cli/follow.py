"""Reports of lost and restored connections, for all commands with --follow."""

from __future__ import annotations

from hostmanager_client.cli.documents import connection_json, connection_line
from hostmanager_client.cli.output import print_json, print_line
from hostmanager_client.reconnect import ConnectionChange, Disconnected, OnConnection


def connection_reporter(*, as_json: bool) -> OnConnection:
    """Return a listener that prints the loss and the return of a connection.

    The output is a JSON line on standard output, or a text line on standard error. The listener prints the
    first failed attempt of an outage and omits the others.
    """

    def report(change: ConnectionChange) -> None:
        if isinstance(change, Disconnected) and change.attempt > 1:
            return
        if as_json:
            print_json(connection_json(change), lines=True)
        else:
            print_line(connection_line(change), err=True)

    return report
