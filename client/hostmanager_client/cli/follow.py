"""What the following commands have in common: telling of lost connections."""

from __future__ import annotations

from hostmanager_client.cli.documents import connection_json, connection_line
from hostmanager_client.cli.output import print_json, print_line
from hostmanager_client.reconnect import ConnectionChange, Disconnected, OnConnection


def connection_reporter(*, as_json: bool) -> OnConnection:
    """Tells of a loss and of the return: as a JSON line among the others, or on standard error.

    Of an outage only the first attempt to end it is told, not each.
    """

    def tell(change: ConnectionChange) -> None:
        if isinstance(change, Disconnected) and change.attempt > 1:
            return
        if as_json:
            print_json(connection_json(change), lines=True)
        else:
            print_line(connection_line(change), err=True)

    return tell
