"""Messages of protobuf, encoded and decoded by the tables of the contract."""

from __future__ import annotations

from sys import byteorder

from hostmanager.v1.host_manager_tables import MESSAGES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

Field = tuple[int, str, str, str, str, str]  # number, name, kind, type name, label, oneof

_WIRE_TYPES = {"string": 2, "bytes": 2, "message": 2, "double": 1}  # 0 for all other kinds

# The details of a status, from google/rpc/status.proto and error_details.proto.
_DETAILS: dict[str, tuple[Field, ...]] = {
    "google.rpc.Status": (
        (1, "code", "int32", "", "", ""),
        (2, "message", "string", "", "", ""),
        (3, "details", "message", "google.protobuf.Any", "*", ""),
    ),
    "google.protobuf.Any": (
        (1, "type_url", "string", "", "", ""),
        (2, "value", "bytes", "", "", ""),
    ),
    "google.rpc.ErrorInfo": (
        (1, "reason", "string", "", "", ""),
        (2, "domain", "string", "", "", ""),
        (3, "metadata", "message", "google.rpc.ErrorInfo.MetadataEntry", "%", ""),
    ),
    "google.rpc.ErrorInfo.MetadataEntry": (
        (1, "key", "string", "", "", ""),
        (2, "value", "string", "", "", ""),
    ),
    "google.rpc.BadRequest": (
        (1, "field_violations", "message", "google.rpc.BadRequest.FieldViolation", "*", ""),
    ),
    "google.rpc.BadRequest.FieldViolation": (
        (1, "field", "string", "", "", ""),
        (2, "description", "string", "", "", ""),
    ),
}
_DEFAULTS: dict[str, Any] = {
    "string": "", "bytes": b"", "bool": False, "int32": 0, "int64": 0, "enum": 0, "double": 0.0,
}  # fmt: skip


_LARGEST_TAG = 0xFFFFFFFF


class MalformedError(ValueError):
    """Bytes that are no message of the expected type."""


class MessageType:
    """A type of messages, with its fields by name and by the tag that they have on the wire."""

    __slots__ = ("by_name", "by_tag", "defaults", "fields", "full_name")

    def __init__(self, full_name: str, fields: tuple[Field, ...]) -> None:
        self.full_name = full_name
        self.fields = fields
        self.by_name = {field[1]: field for field in fields}
        self.defaults: dict[str, Any] = {
            field[1]: _DEFAULTS.get(field[2]) for field in fields if field[4] not in ("*", "%")
        }
        # A field that arrives with another wire type has no entry, and counts as unknown, as in protobuf.
        self.by_tag = {field[0] << 3 | _WIRE_TYPES.get(field[2], 0): field for field in fields}


_types: dict[str, MessageType] = {}


def message_type(full_name: str) -> MessageType:
    """Return a type of messages of the contract, or of the details of a status."""
    found = _types.get(full_name)
    if found is None:
        fields = MESSAGES.get(full_name) or _DETAILS.get(full_name) or ()
        found = _types[full_name] = MessageType(full_name, fields)
    return found


class LightMessage:
    """A received message; reads as a message of protobuf does."""

    _oneofs: Mapping[str, str] = {}  # no message changes this one, which most share

    def __init__(self, kind: MessageType, size: int = 0) -> None:
        self.DESCRIPTOR = kind
        self._size = size

    def __getattr__(self, name: str) -> Any:
        """Return the default of a field that the message does not have."""
        kind = self.DESCRIPTOR
        default = kind.defaults.get(name)
        if default is not None:
            return default
        field = kind.by_name.get(name)
        if field is None:
            raise AttributeError(f"the message {kind.full_name} has no field {name!r}")
        _, _, _, type_name, label, _ = field
        if label in ("*", "%"):
            return [] if label == "*" else {}
        # No message changes after its receipt, so one empty message of a type serves all.
        default = kind.defaults[name] = LightMessage(message_type(type_name))
        return default

    def HasField(self, name: str) -> bool:  # noqa: N802 -- the name in protobuf
        """Return whether the message has a field with presence."""
        if not (field := self.DESCRIPTOR.by_name.get(name)) or field[4] != "?":
            raise ValueError(f"the message {self.DESCRIPTOR.full_name} has no field {name!r} with presence")
        return name in self.__dict__

    def WhichOneof(self, name: str) -> str | None:  # noqa: N802 -- the name in protobuf
        """Return the name of the field of a oneof that the message has."""
        return self._oneofs.get(name)

    def ByteSize(self) -> int:  # noqa: N802 -- the name in protobuf
        """Return the size on the wire, in bytes."""
        return self._size


def decode(full_name: str, data: bytes) -> LightMessage:
    """Return a message; raise MalformedError."""
    message = LightMessage(message_type(full_name), len(data))
    try:
        _decode_into(message, data, 0, len(data))
    except (IndexError, UnicodeDecodeError) as error:
        raise MalformedError(f"cannot read a message {full_name}: {error}") from error
    return message


def _decode_into(message: LightMessage, data: bytes, position: int, end: int) -> None:
    fields = message.DESCRIPTOR.by_tag
    while position < end:
        tag = data[position]
        position += 1
        if tag >= 0x80:  # most numbers are one byte
            tag, position = _varint(data, position - 1)
        field, wire = fields.get(tag), tag & 7
        value: Any
        if wire == 0:
            value = data[position]
            position += 1
            if value >= 0x80:
                value, position = _varint(data, position - 1)
        elif wire == 2:
            size = data[position]
            start = position + 1
            if size >= 0x80:
                size, start = _varint(data, position)
            position = start + size
            if position > end:
                raise MalformedError("cannot read a message: a field is longer than its message")
            if field is not None and field[2] == "message":
                _add_message(message, field, data, start, position)
                continue
            value = data[start:position]
        elif wire in (1, 5):
            start, position = position, position + (8 if wire == 1 else 4)
            value = data[start:position]
        else:
            raise MalformedError(f"cannot read a message: it has the unknown wire type {wire}")
        if tag < 8 or tag > _LARGEST_TAG or position > end:
            raise MalformedError("cannot read a message: it is cut off")
        if field is not None:
            _add_scalar(message, field, value)


def _add_message(message: LightMessage, field: Field, data: bytes, start: int, end: int) -> None:
    _, name, _, type_name, label, oneof = field
    values = message.__dict__
    if label == "?" and name in values:
        inner = values[name]  # a repeated part of one message
    else:
        inner = LightMessage(message_type(type_name), end - start)
    _decode_into(inner, data, start, end)
    if label == "*":
        values.setdefault(name, []).append(inner)
    elif label == "%":
        values.setdefault(name, {})[inner.key] = inner.value
    elif oneof:
        _set_one(message, name, inner, oneof)
    else:
        values[name] = inner


def _add_scalar(message: LightMessage, field: Field, value: Any) -> None:
    _, name, kind, _, label, oneof = field
    if kind == "string":
        value = value.decode()
    elif kind == "bool":
        value = value != 0
    elif kind == "double":
        value = memoryview(value if byteorder == "little" else value[::-1]).cast("d")[0]
    elif kind != "bytes" and value >= 0x80:
        bits = 64 if kind == "int64" else 32
        value &= (1 << bits) - 1
        value -= (value >> (bits - 1)) << bits
    values = message.__dict__
    if label == "*":
        values.setdefault(name, []).append(value)
    elif oneof:
        _set_one(message, name, value, oneof)
    else:
        values[name] = value


def _set_one(message: LightMessage, name: str, value: Any, oneof: str) -> None:
    """Set a field of a oneof, and remove the field that the oneof had."""
    values = message.__dict__
    values.pop(message._oneofs.get(oneof, ""), None)
    values["_oneofs"] = {**message._oneofs, oneof: name}
    values[name] = value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = data[position]
    position += 1
    if value < 0x80:
        return value, position
    value &= 0x7F
    for shift in range(7, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
    raise MalformedError("cannot read a message: a number is too long")


def encode(full_name: str, fields: Mapping[str, Any]) -> bytes:
    """Return the bytes of a message with these fields; values are plain, messages are mappings."""
    by_name = message_type(full_name).by_name
    parts = []
    for name, value in fields.items():
        field = by_name[name]
        if field[4] == "*":
            parts += [_encode_field(field, each) for each in value]
        elif value or field[4] == "?":
            parts.append(_encode_field(field, value))
    return b"".join(parts)


def _encode_field(field: Field, value: Any) -> bytes:
    number, _, kind, type_name, _, _ = field
    if kind in ("string", "bytes", "message"):
        data = (
            encode(type_name, value) if kind == "message" else value.encode() if kind == "string" else value
        )
        return _encode_varint(number << 3 | 2) + _encode_varint(len(data)) + data
    return _encode_varint(number << 3) + _encode_varint(int(value))


def _encode_varint(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF
    result = bytearray()
    while value >= 0x80:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)
