"""Filters of events by time, reason and severity, as fields of a request."""

from __future__ import annotations

from hostmanager_client.errors import InvalidRequest, quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from typing import Any, TypedDict

    class NewEventFilter(TypedDict, total=False):
        """The selection of a stream: `min_severity` is "info", "warning" or "error"."""

        since: datetime | None
        reasons: Iterable[str]
        min_severity: str | int

    class EventFilter(NewEventFilter, total=False):
        """The selection of a listing; events at `until` and later are left out."""

        until: datetime | None


SEVERITIES = ("info", "warning", "error")  # in the order of their numbers in the contract


def event_filter(
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    reasons: Iterable[str] = (),
    min_severity: str | int = 0,
) -> dict[str, Any]:
    """Return the fields of a request that select events; raise InvalidRequest for an unknown severity.

    A time without a zone is a local time.
    """
    fields: dict[str, Any] = {}
    if since is not None:
        fields["since"] = _timestamp(since)
    if until is not None:
        fields["until"] = _timestamp(until)
    if isinstance(reasons, str):  # otherwise each letter would be a reason
        raise InvalidRequest(f"cannot use {quoted(reasons)} as a list of reasons: write [{quoted(reasons)}]")
    if words := tuple(reasons):
        fields["reasons"] = words
    if isinstance(min_severity, str):
        if min_severity not in SEVERITIES:
            known = ", ".join(SEVERITIES)
            raise InvalidRequest(f"cannot select the severity {quoted(min_severity)}: the words are {known}")
        min_severity = SEVERITIES.index(min_severity) + 1
    if min_severity:
        fields["min_severity"] = min_severity
    return fields


def _timestamp(moment: datetime) -> dict[str, int]:
    microseconds = round(moment.timestamp() * 1e6)
    return {"seconds": microseconds // 1_000_000, "nanos": microseconds % 1_000_000 * 1000}
