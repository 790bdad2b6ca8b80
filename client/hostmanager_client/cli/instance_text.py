"""The properties of one instance as text."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from google.protobuf.timestamp_pb2 import Timestamp
    from hostmanager.v1 import host_manager_pb2 as pb

UNKNOWN_IMAGE = "unknown"  # the id of a tag that the engine does not have


def properties(instance: pb.ManagedInstance, now: float) -> Iterator[tuple[str, str]]:
    """Yield the names and the texts of all properties; `now` in s since 1970."""
    from hostmanager_client.words import next_action_word

    yield from _state_pairs(instance, now)
    if instance.HasField("liveness"):
        yield from _liveness_pairs(instance.liveness, now)
    yield from _history_pairs(instance, now)
    yield "generation", f"{instance.generation} (carried out: {instance.observed_generation})"
    match instance.WhichOneof("runtime"):
        case "process":
            yield from _process_pairs(instance.process)
        case "compose_service" if instance.compose_service.service:
            observed = next_action_word(instance.next_action) != "?"
            yield from _service_pairs(instance.compose_service, observed=observed)


def property_lines(
    instance: pb.ManagedInstance, now: float, more: Iterable[tuple[str, str]] = ()
) -> list[str]:
    """Return the lines of all properties, and of `more`, that have a value, with their names in bold."""
    from hostmanager_client.cli.escape import one_line
    from hostmanager_client.cli.text import style

    pairs = [(name, text) for name, text in (*properties(instance, now), *more) if text]
    width = max(len(name) for name, _ in pairs) + 1
    lines = []
    for name, text in pairs:
        # Only the last output has several lines, which the daemon bounds.
        parts = text.split("\n") if name == "last output" else [text]
        heads = [f"{name}:", *[""] * (len(parts) - 1)]
        lines += [
            f"{style(head.ljust(width), bold=True)} {one_line(part)}"
            for head, part in zip(heads, parts, strict=True)
        ]
    return lines


def _state_pairs(instance: pb.ManagedInstance, now: float) -> Iterator[tuple[str, str]]:
    from hostmanager_client import words
    from hostmanager_client.cli.view import describe

    yield "instance", instance.instance_id
    yield "class", instance.agent_class
    labels = sorted(instance.labels.items())
    yield "labels", ", ".join(f"{name}={value}" if value else name for name, value in labels)
    yield "management", words.management_word(instance.management)
    yield "target", words.target_word(instance.target_state)
    yield "target set by", _origin(instance.target_origin, now) if instance.HasField("target_origin") else ""
    yield "state", words.next_action_word(instance.next_action)
    yield "reason", instance.reason
    yield "message", describe(instance, now) or instance.message
    yield "failing", "yes" if instance.failing else ""
    yield "operable", "" if instance.operable else "no"
    yield "retired", "yes" if instance.retired else ""
    yield "passive", "yes" if instance.passive_tracking else ""
    yield "restart required", "yes" if instance.restart_required else ""
    yield "next deadline", _moment(instance.at, now) if instance.HasField("at") else ""
    yield "started", _moment(instance.start_time, now) if instance.HasField("start_time") else ""
    yield "waits for", ", ".join(instance.waiting_for)
    if instance.HasField("schedule"):
        schedule = instance.schedule
        yield "schedule", f"{schedule.cron} {schedule.timezone or '(time of the host)'}"
        yield "next run", _moment(schedule.next_time, now) if schedule.HasField("next_time") else ""
    if instance.HasField("hold"):
        hold = instance.hold
        yield "held until", _moment(hold.end_time, now) if hold.HasField("end_time") else "its release"
        yield "held since", _moment(hold.start_time, now)
        yield "held because", hold.reason


def _liveness_pairs(liveness: pb.Liveness, now: float) -> Iterator[tuple[str, str]]:
    from hostmanager_client.words import liveness_word, to_timespan

    limits = ""
    if liveness.HasField("interval"):
        every, longest = (f"{to_timespan(each):g} s" for each in (liveness.interval, liveness.timeout))
        failures = f"restart after {liveness.failures} failures in a row"
        limits = f" (every {every}, at most {longest}; {failures})"
    yield "liveness probe", f"{liveness.kind} {liveness.check}".rstrip() + limits
    why = f": {liveness.message}" if liveness.message else ""
    when = f", {_moment(liveness.time, now)}" if liveness.HasField("time") else ""
    count = liveness.consecutive_failures
    failed = f", {count} {'failure' if count == 1 else 'failures'} in a row" if count else ""
    yield "last answer", f"{liveness_word(liveness.answer)}{why}{failed}{when}"


def _history_pairs(instance: pb.ManagedInstance, now: float) -> Iterator[tuple[str, str]]:
    from hostmanager_client.cli.text import duration
    from hostmanager_client.cli.view import exit_words, stability
    from hostmanager_client.words import to_seconds

    yield "restarts", str(instance.restart_count)
    asked = instance.HasField("restart_origin")
    yield "restart asked by", _origin(instance.restart_origin, now) if asked else ""
    yield "failures in a row", str(instance.consecutive_failures)
    yield "stability", f"{stability(instance, now):.2f}"
    yield "recent failures", ", ".join(f"{duration(now - to_seconds(t))} ago" for t in instance.fail_times)
    if instance.HasField("last_exit"):
        last = instance.last_exit
        expected = "asked for" if last.expected else "not asked for"
        pid = f", pid {last.pid}" if last.pid else ""
        yield "last exit", f"{exit_words(last, now)}, {expected}{pid}"
        yield "last exit because", last.message
        yield "last output", last.last_output


def _process_pairs(process: pb.HostProcess) -> Iterator[tuple[str, str]]:
    import shlex

    from hostmanager_client.cli.usage_text import size

    yield "pid", str(process.pid) if process.pid else "none"
    yield "command", shlex.join(process.command)
    yield "command from", process.command_source
    yield "user", process.user
    yield "group", process.group
    yield "umask", process.umask
    problem = f", does not hold: {process.memory_problem}" if process.memory_problem else ""
    yield "memory limit", f"{size(process.memory_limit)}{problem}" if process.memory_limit else ""
    yield "restart above", f"{size(process.restart_above)} of memory" if process.restart_above else ""
    yield "nice", str(process.nice) if process.HasField("nice") else ""
    yield "working directory", process.working_dir
    yield "env files", ", ".join(_env_file(file) for file in process.env_files)
    yield "log file", process.log_file
    yield "stop signal", process.stop_signal if process.stop_signal != "SIGINT" else ""
    yield "success codes", ", ".join(("0", *process.success_codes)) if process.success_codes else ""
    yield "launches", str(process.run)
    yield "adopted", "yes, an earlier daemon started it" if process.adopted else ""


def _env_file(file: pb.EnvFile) -> str:
    notes = [note for note, told in (("optional", file.optional), ("not loaded", not file.loaded)) if told]
    return f"{file.path} ({', '.join(notes)})" if notes else file.path


def _origin(origin: pb.ChangeOrigin, now: float) -> str:
    from hostmanager_client.cli.origins import origin_words
    from hostmanager_client.cli.text import duration
    from hostmanager_client.words import to_seconds

    return f"{origin_words(origin)}, {duration(now - to_seconds(origin.time))} ago"


def _moment(stamp: Timestamp, now: float) -> str:
    from hostmanager_client.cli.text import duration
    from hostmanager_client.words import to_datetime, to_seconds

    ago = now - to_seconds(stamp)
    when = f"{duration(ago)} ago" if ago >= 0 else f"in {duration(-ago)}"
    return f"{to_datetime(stamp):%Y-%m-%d %H:%M:%S} UTC ({when})"


def _service_pairs(service: pb.ComposeService, *, observed: bool) -> Iterator[tuple[str, str]]:
    """Yield the properties of a compose service; those of its containers only if `observed`.

    `observed`: the engine has answered. Ids have the short form of docker; `--json` has the full ids.
    """
    from hostmanager_client.cli.text import short_id

    yield "compose file", service.compose_file
    yield "project", service.project
    yield "service", service.service
    if not observed:
        yield "image", service.image_tag
        yield "container", "not known"
        return
    there = service.image_id != UNKNOWN_IMAGE
    yield "image", f"{service.image_tag} ({short_id(service.image_id) if there else 'not on the engine'})"
    paused = f", {service.paused_replicas} paused" if service.paused_replicas else ""
    yield "containers", f"{service.running_replicas} of {service.replicas} run{paused}"
    if not service.container_found:
        yield "container", "none"
        return
    yield "container", f"{service.container_name} ({short_id(service.container_id)})"
    yield "status", service.status if service.running else f"{service.status} ({service.exit_code})"
    failing = service.unhealthy_replicas if service.replicas > 1 else 0
    yield "health", f"{service.health} ({failing} containers)" if failing else service.health
    yield "pid", str(service.pid) if service.pid else ""
    outdated = service.running and service.running_image != service.image_id
    older = ", older than the tag" if outdated else ""
    yield "running image", f"{short_id(service.running_image)}{older}" if service.running else ""
    yield "definition", "changed since the container was made" if service.definition_changed else ""
