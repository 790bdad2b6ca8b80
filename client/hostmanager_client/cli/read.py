"""The work of the commands that only read: `status`, `show`, `manager status`.

Neither click nor gRPC nor protobuf is loaded here: brief.py runs these commands without them.
"""

from __future__ import annotations

from hostmanager_client.cli import TROUBLE
from hostmanager_client.cli.cli_session import CliSession
from hostmanager_client.cli.escape import one_line
from hostmanager_client.cli.output import print_json, print_lines
from hostmanager_client.cli.selection import NONE_FAILING, names_of

WINDOW = 0.5  # s between two measurements, from which the use of the CPU follows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from hostmanager.v1 import host_manager_pb2 as pb

    from hostmanager_client.calls import Listing
    from hostmanager_client.plain_calls import PlainCalls


def show_status(
    session: CliSession,
    words: Sequence[str],
    *,
    failing: bool = False,
    check: bool = False,
    wide: bool = False,
) -> int:
    """Show the manager and all or the named instances; return the exit code.

    `failing`: only the failing ones. With `failing` or `check`, the code tells whether something is wrong.
    `wide`: all columns of the table, and what the instances use.
    """
    names = names_of(words)
    usages = None
    with session.connect() as client:
        status = client.get_status()
        listing = client.list_instances(names, failing=failing)
        if wide:
            answer = client.get_usage(names, failing=failing, window=WINDOW)
            usages = {usage.instance_id: usage for usage in answer.usages}
        address = str(client.address)
    bad = (failing or check) and _in_trouble(status, listing, whole_host=check and not words)
    code = TROUBLE if bad else 0
    if session.json:
        from hostmanager_client.cli.documents import state_json
        from hostmanager_client.state import make_state

        print_json(state_json(make_state(status, listing.instances, listing.revision), usages))
        return code
    from hostmanager_client.cli.tables.status import ShownStatus, manager_lines, status_lines
    from hostmanager_client.words import to_seconds

    now = to_seconds(status.time)
    if failing and not listing.instances:
        lines = [NONE_FAILING, *manager_lines(status.manager, now, address, None)]
    else:
        lines = status_lines(ShownStatus(status, listing), now, address, wide=wide, usages=usages)
    print_lines(lines)
    return code


def _in_trouble(status: pb.GetStatusResponse, listing: Listing, *, whole_host: bool) -> bool:
    """Return whether an instance is failing, or, for the whole host, the manager or its input files."""
    if any(instance.failing for instance in listing.instances):
        return True
    if not whole_host:
        return False
    from hostmanager_client.words import manager_word

    manager = status.manager
    bad_files = any(not parsed.success for parsed in manager.config_parse_status.values())
    return bad_files or bool(manager.problems) or manager_word(manager.state) != "running"


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


def show_instances(session: CliSession, words: Sequence[str], *, failing: bool = False) -> None:
    """Show all properties of the named instances; as JSON an object for a single id, else a list."""
    from hostmanager_client.selectors import Selector

    names = names_of(words)
    single = len(names) == 1 and not isinstance(names[0], Selector) and not failing
    with session.connect() as client:
        if single:
            instances = [client.get_instance(names[0])]
        else:
            instances = list(client.list_instances(names, failing=failing).instances)
        usages = _usages(client, names, failing=failing) if instances else {}
    if session.json:
        from hostmanager_client.cli.documents import with_usage

        documents = [with_usage(instance, usages) for instance in instances]
        print_json(documents[0] if single else documents)
        return
    if not instances:
        print_lines([NONE_FAILING])
    for position, instance in enumerate(instances):
        if position:
            print_lines([""])
        _show_properties(instance, usages.get(instance.instance_id))


def _usages(client: PlainCalls, names: Sequence[str], *, failing: bool) -> dict[str, pb.InstanceUsage]:
    """Return what the instances use; nothing if the daemon cannot measure."""
    from hostmanager_client.errors import HostManagerError

    try:
        return {usage.instance_id: usage for usage in client.get_usage(names, failing=failing).usages}
    except HostManagerError:  # an older daemon, or an instance that is gone since
        return {}


def _show_properties(instance: pb.ManagedInstance, usage: pb.InstanceUsage | None) -> None:
    import time

    from hostmanager_client.cli.instance_text import property_lines

    now, more = time.time(), []
    if usage is not None:
        from hostmanager_client.cli.usage_text import usage_pairs
        from hostmanager_client.words import to_seconds

        age = now - to_seconds(instance.start_time) if instance.HasField("start_time") else 0.0
        more = list(usage_pairs(usage, age))
    print_lines(property_lines(instance, now, more))
