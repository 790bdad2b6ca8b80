"""Enum words and JSON of messages."""

from __future__ import annotations

import json

import pytest
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client.words import enum_words, to_json


def test_every_field_has_its_name_of_the_contract() -> None:
    document = to_json(pb.ManagedInstance())
    assert list(document) == [f.name for f in pb.ManagedInstance.DESCRIPTOR.fields]
    assert document["last_exit"] is None
    assert document["process"] is None
    assert document["generation"] == 0
    assert document["fail_times"] == []


def test_values_are_the_words_of_ocs_and_plain_numbers() -> None:
    instance = pb.ManagedInstance(
        next_action=pb.NEXT_ACTION_UNKNOWN,
        target_state=pb.TARGET_STATE_PASSIVE,
        management=pb.MANAGEMENT_HOST,
        generation=2**40,
        last_exit=pb.Exit(signal="SIGKILL"),
    )
    instance.at.FromMilliseconds(1_700_000_000_250)
    document = json.loads(json.dumps(to_json(instance)))
    assert document["next_action"] == "?"
    assert document["target_state"] == "passive"
    assert document["management"] == "host"
    assert document["generation"] == 2**40
    assert document["at"] == "2023-11-14T22:13:20.250Z"
    assert document["last_exit"]["signal"] == "SIGKILL"
    assert document["last_exit"]["code"] is None


def test_maps_are_objects_sorted_by_key() -> None:
    manager = pb.ManagerStatus()
    manager.config_parse_status["b"].success = True
    manager.config_parse_status["a"].message = "broken"
    document = to_json(manager)["config_parse_status"]
    assert list(document) == ["a", "b"]
    assert document["a"]["message"] == "broken"


@pytest.mark.parametrize("name", list(pb.DESCRIPTOR.enum_types_by_name))
def test_every_enum_has_one_word_for_each_value(name: str) -> None:
    words = enum_words(pb.DESCRIPTOR.enum_types_by_name[name])
    assert len(set(words.values())) == len(words)
    assert words[0] == "unspecified"


def test_the_words_of_next_action() -> None:
    words = enum_words(pb.NextAction.DESCRIPTOR)
    assert list(words.values())[1:] == ["down", "start_at", "start", "wait_start", "up", "wait_dead", "?"]
