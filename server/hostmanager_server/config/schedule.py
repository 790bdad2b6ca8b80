"""The key `schedule`: cron words, and the times that they stand for."""

from __future__ import annotations

from datetime import UTC, datetime

from hostmanager_server.config.document import MapNode, Node
from hostmanager_server.config.node_reader import Reader, shown
from hostmanager_server.core.spec import Schedule
from hostmanager_server.linux.time_zones import TimeZoneError, load_zone

SCHEDULE_KEYS = ("cron", "timezone", "catch-up")
DAY = 86_400.0  # s
_NAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


def read_schedule(reader: Reader, node: Node, label: str) -> Schedule | None:
    """Return the schedule, given as cron words or as a mapping, or None after an error."""
    if not isinstance(node, MapNode):
        words = reader.text(node, label)
        return None if words is None else _checked(reader, node, label, Schedule(words))
    entries = reader.mapping(node, label)
    reader.check_keys(entries, SCHEDULE_KEYS, label)
    if "cron" not in entries:
        reader.error(node, f"{label} needs cron: WORDS, such as cron: 0 3 * * *")
        return None
    cron_node = entries["cron"].value
    zone, catch_up = "", None
    if "timezone" in entries:
        zone_node = entries["timezone"].value
        zone = reader.text(zone_node, f"'timezone' in {label}") or ""
        try:
            load_zone(zone)
        except TimeZoneError as error:
            reader.error(zone_node, f"'timezone' in {label}: {error}")
            return None
    if "catch-up" in entries:
        catch_up = reader.seconds(entries["catch-up"].value, f"'catch-up' in {label}", 0, 7 * DAY)
    text = reader.text(cron_node, f"'cron' in {label}")
    if text is None:
        return None
    schedule = Schedule(text, zone) if catch_up is None else Schedule(text, zone, catch_up)
    return _checked(reader, cron_node, f"'cron' in {label}", schedule)


def next_run(schedule: Schedule, after: float) -> float | None:
    """Return the next time of a schedule after a time, both in s since 1970; None if there is none.

    As in Debian's cron: a run at a fixed time that the clock skips in spring comes right after, and a run at
    a fixed time that comes twice in autumn is made once. Raises ValueError for words that are no schedule.
    """
    from cronsim import CronSim, CronSimError

    words = _NAMES.get(schedule.cron.strip().lower(), schedule.cron).split()
    if len(words) != 5:
        raise ValueError(f"it has {len(words)} fields, and needs 5: minute, hour, day, month, day of week")
    zone = load_zone(schedule.timezone)
    try:
        found = next(CronSim(" ".join(words), datetime.fromtimestamp(after, zone)), None)
    except CronSimError as error:
        raise ValueError(str(error).lower()) from error
    return None if found is None else found.timestamp()


def _checked(reader: Reader, node: Node, label: str, schedule: Schedule) -> Schedule | None:
    example = "such as '0 3 * * *' (each day at 3 o'clock) or '@hourly'"
    try:
        coming = next_run(schedule, datetime.now(UTC).timestamp())
    except ValueError as error:
        reader.error(node, f"{label} must be cron words, {example}, not {shown(schedule.cron)}: {error}")
        return None
    except TimeZoneError as error:  # the zone of this machine
        reader.error(node, f"{label} needs a timezone: {error}")
        return None
    if coming is None:
        reader.error(node, f"{label} is {shown(schedule.cron)}, which never comes")
        return None
    return schedule
