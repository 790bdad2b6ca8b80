"""Enum words and JSON of the messages of the contract.

The word of an enum value is its name in lower case without the prefix of the enum ("up", "wait_start",
"host", "warning"). The exception is UNKNOWN of next_action, which is "?" as in OCS.
"""

from __future__ import annotations

from hostmanager.v1.host_manager_tables import ENUMS, MESSAGES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from typing import Any

    from google.protobuf.descriptor import EnumDescriptor
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp
    from hostmanager.v1 import host_manager_pb2 as pb

# The range of times that every time zone can show, in s: 1 January of the years 2 and 9998.
_EARLIEST = -62_104_060_800
_LATEST = 253_339_228_800
_INFINITY = float("inf")  # the module `math` is a file

_Plan = tuple[tuple[str, bool, "Callable[[Any], Any]"], ...]
_enums: dict[str, dict[int, str]] = {}
_plans: dict[str, _Plan] = {}  # by message type

_IRREGULAR = {"NEXT_ACTION_UNKNOWN": "?"}


def enum_words(descriptor: EnumDescriptor) -> dict[int, str]:
    """Return a map from number to word, with every value of an enum."""
    return _words(descriptor.full_name)


def _words(enum: str) -> dict[int, str]:
    found = _enums.get(enum)
    if found is None:
        values = ENUMS[enum]
        prefix = values[0].removesuffix("UNSPECIFIED")
        found = _enums[enum] = {
            number: _IRREGULAR.get(name) or name.removeprefix(prefix).lower()
            for number, name in values.items()
        }
    return found


def next_action_word(value: pb.NextAction.ValueType) -> str:
    """Return `up`, `down`, `start_at`, `start`, `wait_start`, `wait_dead` or `?`."""
    return _word("NextAction", value)


def target_word(value: pb.TargetState.ValueType) -> str:
    """Return `up`, `down` or `passive`."""
    return _word("TargetState", value)


def manager_word(value: pb.ManagerState.ValueType) -> str:
    """Return `running`, `stopping` or `stopped`."""
    return _word("ManagerState", value)


def severity_word(value: pb.Severity.ValueType) -> str:
    """Return `info`, `warning` or `error`."""
    return _word("Severity", value)


def event_word(value: pb.EventKind.ValueType) -> str:
    """Return `launch`, `up`, `exit`, ..."""
    return _word("EventKind", value)


def management_word(value: pb.Management.ValueType) -> str:
    """Return `host`, `docker` or `retired`."""
    return _word("Management", value)


def snapshot_word(value: pb.StatusSnapshot.Reason.ValueType) -> str:
    """Return `initial`, `epoch_changed`, `history_compacted` or `slow_consumer`."""
    return _word("StatusSnapshot.Reason", value)


def liveness_word(value: pb.Liveness.Answer.ValueType) -> str:
    """Return `none yet`, `alive`, `failed` or `unknown`."""
    return _word("Liveness.Answer", value) if value else "none yet"


def pull_word(value: pb.ImagePull.State.ValueType) -> str:
    """Return `waiting`, `pulling`, `up to date`, `pulled`, `skipped`, `failed` or `cancelled`."""
    return _word("ImagePull.State", value).replace("_", " ")


def _word(enum: str, value: int) -> str:
    # A newer daemon may send values that are unknown here.
    return _words(f"hostmanager.v1.{enum}").get(value, f"value {value}")


def to_datetime(stamp: Timestamp) -> datetime:
    """Return the time in UTC, with microseconds, limited to the years 2 to 9998."""
    from datetime import UTC, datetime, timedelta

    seconds = min(max(stamp.seconds, _EARLIEST), _LATEST)
    return datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=stamp.nanos // 1000)


def to_seconds(stamp: Timestamp) -> float:
    """Return the time in s since the Unix epoch."""
    return stamp.seconds + stamp.nanos / 1e9


def to_timespan(value: Duration) -> float:
    """Return the duration in s."""
    return value.seconds + value.nanos / 1e9


def to_json(message: Message) -> dict[str, Any]:
    """Return the message as JSON values, with every field under its name in the contract.

    An absent message or optional field is null. Unlike in the JSON of protobuf, 64-bit integers are numbers
    (all values are far below 2**53) and enums are words. Times are RFC 3339 in UTC, durations are in s.
    """
    result: dict[str, Any] = {}
    for name, presence, convert in _plan(message.DESCRIPTOR.full_name):
        if presence and not message.HasField(name):
            result[name] = None
        else:
            result[name] = convert(getattr(message, name))
    return result


def _time(stamp: Timestamp) -> str:
    return to_datetime(stamp).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _same(value: Any) -> Any:
    return value


def _finite(value: float) -> float | None:
    """Return the number, or None for NaN and infinities, for which JSON has no syntax."""
    return value if -_INFINITY < value < _INFINITY else None


_SCALARS: dict[str, Callable[[Any], Any]] = {
    "google.protobuf.Timestamp": _time,
    "google.protobuf.Duration": to_timespan,
}


def _plan(message: str) -> _Plan:
    """Return name, presence and converter of each field; computed once for each message type."""
    found = _plans.get(message)
    if found is None:
        found = _plans[message] = tuple(
            (name, label == "?", _converter(kind, type_name, label))
            for _, name, kind, type_name, label, _ in MESSAGES[message]
        )
    return found


def _converter(kind: str, type_name: str, label: str) -> Callable[[Any], Any]:
    if label == "%":
        _, _, value_kind, value_type, _, _ = MESSAGES[type_name][1]
        value = _single(value_kind, value_type)
        return lambda entries: {key: value(entries[key]) for key in sorted(entries)}
    single = _single(kind, type_name)
    if label == "*":
        return lambda values: [single(value) for value in values]
    return single


def _single(kind: str, type_name: str) -> Callable[[Any], Any]:
    if kind == "message":
        return _SCALARS.get(type_name, to_json)
    if kind == "enum":
        words = _words(type_name)
        return lambda number: words.get(number, number)
    return _finite if kind == "double" else _same
