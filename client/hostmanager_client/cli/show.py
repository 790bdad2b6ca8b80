"""`hostmanager show`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from hostmanager_client.cli.options import common_options, id_argument
from hostmanager_client.cli.output import print_json, print_lines
from hostmanager_client.cli.session import pass_session

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp
    from hostmanager.v1 import host_manager_pb2 as pb

UNKNOWN_IMAGE = "unknown"  # the id of a tag that the engine does not have


@click.command("show")
@id_argument
@common_options
def show_command(instance_id: str) -> None:
    """Show everything about one instance."""
    session = pass_session()
    with session.connect() as client:
        instance = client.get_instance(instance_id)
    if session.json:
        from hostmanager_client.words import to_json

        print_json(to_json(instance))
        return
    import time

    from hostmanager_client.cli.escape import one_line

    pairs = [(name, one_line(text)) for name, text in _pairs(instance, time.time()) if text]
    width = max(len(name) for name, _ in pairs) + 1
    print_lines(f"{click.style(f'{name}:'.ljust(width), bold=True)} {text}" for name, text in pairs)


def _pairs(i: pb.ManagedInstance, now: float) -> Iterator[tuple[str, str]]:
    from hostmanager.v1 import host_manager_pb2 as pb

    from hostmanager_client import words
    from hostmanager_client.cli.text import duration
    from hostmanager_client.cli.view import describe, exit_words, stability

    def moment(stamp: Timestamp) -> str:
        ago = now - words.to_seconds(stamp)
        when = f"{duration(ago)} ago" if ago >= 0 else f"in {duration(-ago)}"
        return f"{words.to_datetime(stamp):%Y-%m-%d %H:%M:%S} UTC ({when})"

    yield "instance", i.instance_id
    yield "class", i.agent_class
    yield "management", words.management_word(i.management)
    yield "target", words.target_word(i.target_state)
    yield "state", words.next_action_word(i.next_action)
    yield "reason", i.reason
    yield "message", describe(i, now) or i.message
    yield "operable", "" if i.operable else "no"
    yield "retired", "yes" if i.retired else ""
    yield "passive", "yes" if i.passive_tracking else ""
    yield "restart required", "yes" if i.restart_required else ""
    yield "next deadline", moment(i.at) if i.HasField("at") else ""
    yield "started", moment(i.start_time) if i.HasField("start_time") else ""
    yield "waits for", ", ".join(i.waiting_for)
    yield "restarts", str(i.restart_count)
    yield "failures in a row", str(i.consecutive_failures)
    yield "stability", f"{stability(i, now):.2f}"
    yield "recent failures", ", ".join(f"{duration(now - words.to_seconds(t))} ago" for t in i.fail_times)
    if i.HasField("last_exit"):
        expected = "asked for" if i.last_exit.expected else "not asked for"
        pid = f", pid {i.last_exit.pid}" if i.last_exit.pid else ""
        yield "last exit", f"{exit_words(i.last_exit, now)}, {expected}{pid}"
        yield "last exit because", i.last_exit.message
    yield "generation", f"{i.generation} (carried out: {i.observed_generation})"
    match i.WhichOneof("runtime"):
        case "process":
            process = i.process
            yield "pid", str(process.pid) if process.pid else "none"
            yield "command", shlex.join(process.command)
            yield "command from", process.command_source
            yield "user", process.user
            yield "working directory", process.working_dir
            yield "log file", process.log_file
            yield "launches", str(process.run)
            yield "adopted", "yes, an earlier daemon started it" if process.adopted else ""
        case "compose_service" if i.compose_service.service:
            yield from _service_pairs(i.compose_service, seen=i.next_action != pb.NEXT_ACTION_UNKNOWN)


def _service_pairs(service: pb.ComposeService, *, seen: bool) -> Iterator[tuple[str, str]]:
    """What the compose file asks for and, when the engine could be asked (`seen`), what it has. Ids are as
    short as docker shows them; `--json` has them whole."""
    from hostmanager_client.cli.text import short_id

    yield "compose file", service.compose_file
    yield "project", service.project
    yield "service", service.service
    if not seen:
        yield "image", service.image_tag
        yield "container", "not known"
        return
    there = service.image_id != UNKNOWN_IMAGE
    yield "image", f"{service.image_tag} ({short_id(service.image_id) if there else 'not on the engine'})"
    yield "containers", f"{service.running_replicas} of {service.replicas} run"
    if not service.container_found:
        yield "container", "none"
        return
    yield "container", f"{service.container_name} ({short_id(service.container_id)})"
    status = service.status if service.running else f"{service.status} ({service.exit_code})"
    yield "status", f"{status}, {service.health}" if service.health else status
    yield "pid", str(service.pid) if service.pid else ""
    outdated = service.running and service.running_image != service.image_id
    older = ", not what the tag means now" if outdated else ""
    yield "running image", f"{short_id(service.running_image)}{older}" if service.running else ""
    yield "definition", "changed since the container was made" if service.definition_changed else ""
