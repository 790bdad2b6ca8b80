"""Messages by the tables of the contract, against protobuf."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client.light.protobuf_codec import LightMessage, MalformedError, decode, encode
from hostmanager_client.words import to_json
from hypothesis import example, given, settings
from hypothesis import strategies as st

TYPES = pb.DESCRIPTOR.message_types_by_name
ANSWERS = [name for name in TYPES if name.endswith("Response")]
SCALARS: dict[int, Any] = {
    1: st.floats(width=64),
    3: st.integers(-(2**63), 2**63 - 1),
    5: st.integers(-(2**31), 2**31 - 1),
    8: st.booleans(),
    9: st.text(max_size=8),
    14: st.integers(0, 40),
}


@st.composite
def filled(draw: Any, descriptor: Any) -> Message:
    """Return a message of the contract with drawn fields."""
    message: Message = descriptor._concrete_class()
    for field in descriptor.fields:
        if not draw(st.booleans()):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            value = field.message_type.fields_by_name["value"]
            for key in draw(st.lists(st.text(max_size=3), max_size=2)):
                if value.message_type is None:
                    getattr(message, field.name)[key] = draw(SCALARS[value.type])
                else:
                    getattr(message, field.name)[key].CopyFrom(draw(filled(value.message_type)))
        elif field.is_repeated:
            many = draw(st.integers(0, 2))
            values = [
                draw(filled(field.message_type) if field.message_type else SCALARS[field.type])
                for _ in range(many)
            ]
            getattr(message, field.name).extend(values)
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(draw(filled(field.message_type)))
        else:
            setattr(message, field.name, draw(SCALARS[field.type]))
    return message


def same(light: LightMessage, message: Any) -> None:
    """Assert that both messages read alike."""
    for field in message.DESCRIPTOR.fields:
        ours, theirs = getattr(light, field.name), getattr(message, field.name)
        if field.has_presence and not field.is_repeated:
            assert light.HasField(field.name) == message.HasField(field.name)
        if field.message_type is None:
            assert repr(ours) == repr(list(theirs) if field.is_repeated else theirs)
        elif field.message_type.GetOptions().map_entry:
            assert sorted(ours) == sorted(theirs)
        elif field.is_repeated:
            assert len(ours) == len(theirs)
            for one, other in zip(ours, theirs, strict=True):
                same(one, other)
        else:
            same(ours, theirs)
    for oneof in message.DESCRIPTOR.oneofs:
        if not oneof.name.startswith("_"):
            assert light.WhichOneof(oneof.name) == message.WhichOneof(oneof.name)


@pytest.mark.parametrize("name", ANSWERS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_an_answer_reads_as_with_protobuf(name: str, data: Any) -> None:
    message = data.draw(filled(TYPES[name]))
    packed = message.SerializeToString()
    light: Any = decode(f"hostmanager.v1.{name}", packed)
    same(light, message)
    assert light.ByteSize() == len(packed)
    assert repr(to_json(light)) == repr(to_json(message))


@example(b"\x18\x00")  # a number where a message belongs
@given(st.binary(max_size=120))
def test_garbage_is_refused_or_read_as_protobuf_reads_it(data: bytes) -> None:
    try:
        light = decode("hostmanager.v1.GetStatusResponse", data)
    except MalformedError:
        return  # protobuf reads more, such as groups
    try:
        message = pb.GetStatusResponse.FromString(data)
    except DecodeError:
        pytest.fail("protobuf refuses this message")
    same(light, message)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_cut_or_changed_answer_is_refused_or_read(data: Any) -> None:
    packed = bytearray(data.draw(filled(pb.ListInstancesResponse.DESCRIPTOR)).SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        if packed:
            packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    rest = bytes(packed[: data.draw(st.integers(0, len(packed)))])
    with suppress(MalformedError):
        decode("hostmanager.v1.ListInstancesResponse", rest)


def test_a_negative_zero_keeps_its_sign() -> None:
    packed = pb.ManagedInstance(stability=-0.0).SerializeToString()
    assert repr(decode("hostmanager.v1.ManagedInstance", packed).stability) == "-0.0"


def test_parts_of_one_message_are_merged() -> None:
    parts: list[Any] = [
        pb.ManagedInstance(instance_id="a"),
        pb.ManagedInstance(restart_count=3, process=pb.HostProcess(pid=1)),
        pb.ManagedInstance(compose_service=pb.ComposeService(pid=2)),
    ]
    packed = b"".join(pb.GetInstanceResponse(instance=part).SerializeToString() for part in parts)
    light = decode("hostmanager.v1.GetInstanceResponse", packed)
    same(light, pb.GetInstanceResponse.FromString(packed))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("UpdateRequest", {"requests": [{"instance_id": "ä", "target_state": 2}], "reload_config": True}),
        ("RestartRequest", {"instance_ids": ("a", "b"), "all": False}),
        ("ListInstancesRequest", {"instance_ids": ["a"] * 3, "page_size": 1000, "page_token": ""}),
        ("StartManagerRequest", {"requests": [], "reload_config": False}),
    ],
)
def test_a_request_has_the_bytes_of_protobuf(name: str, fields: dict[str, Any]) -> None:
    assert encode(f"hostmanager.v1.{name}", fields) == getattr(pb, name)(**fields).SerializeToString()


def test_the_details_of_a_status_read_as_with_protobuf() -> None:
    status = status_pb2.Status(code=5, message="no")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="R", domain="d", metadata={"a": "b"}))
    light: Any = decode("google.rpc.Status", status.SerializeToString())
    info: Any = decode("google.rpc.ErrorInfo", light.details[0].value)
    assert (light.message, info.reason, info.metadata) == ("no", "R", {"a": "b"})


def test_unknown_fields_have_no_name() -> None:
    with pytest.raises(AttributeError, match="no field 'colour'"):
        _ = decode("hostmanager.v1.ManagedInstance", b"").colour
