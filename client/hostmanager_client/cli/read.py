"""The work of the commands that only read: `status`, `show`, `manager status`.

Neither click nor gRPC nor protobuf is loaded here: brief.py runs these commands without them.
"""

from __future__ import annotations

from hostmanager_client.cli.cli_session import CliSession
from hostmanager_client.cli.escape import one_line
from hostmanager_client.cli.output import print_json, print_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def show_status(session: CliSession, instance_ids: Sequence[str], *, wide: bool = False) -> None:
    """Show the manager and all or the named instances; all columns of the table if `wide`."""
    with session.connect() as client:
        status = client.get_status()
        listing = client.list_instances(instance_ids)
        address = str(client.address)
    if session.json:
        from hostmanager_client.cli.documents import state_json
        from hostmanager_client.state import make_state

        print_json(state_json(make_state(status, listing.instances, listing.revision)))
        return
    from hostmanager_client.cli.tables.status import ShownStatus, status_lines
    from hostmanager_client.words import to_seconds

    print_lines(status_lines(ShownStatus(status, listing), to_seconds(status.time), address, wide=wide))


def show_manager(session: CliSession) -> None:
    """Show the manager without its instances."""
    with session.connect() as client:
        answer = client.get_status()
        address = str(client.address)
    if session.json:
        from hostmanager_client.words import to_json

        print_json(to_json(answer.manager))
        return
    from hostmanager_client.cli.tables.layout import terminal_width
    from hostmanager_client.cli.tables.status import manager_lines
    from hostmanager_client.words import to_seconds

    lines = manager_lines(answer.manager, to_seconds(answer.time), address, terminal_width())
    if answer.manager.site_config_file:
        lines.append(f"site config: {one_line(answer.manager.site_config_file)}")
    print_lines(lines)


def show_instance(session: CliSession, instance_id: str) -> None:
    """Show all properties of one instance."""
    with session.connect() as client:
        instance = client.get_instance(instance_id)
    if session.json:
        from hostmanager_client.words import to_json

        print_json(to_json(instance))
        return
    import time

    from hostmanager_client.cli.instance_text import property_lines

    print_lines(property_lines(instance, time.time()))
