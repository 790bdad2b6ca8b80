"""Copies of one entry of `agent-instances`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hostmanager_server.config.load import LoadedConfig
from hostmanager_server.config.reload import RepeatedLoad
from hostmanager_server.core.spec import StartCondition

from tests.config.conftest import HEAD

Instances = Callable[..., LoadedConfig]
Errors = Callable[[LoadedConfig], list[tuple[int, int, str]]]


def ids(config: LoadedConfig) -> list[str]:
    assert config.spec is not None, config.problems
    return [spec.instance_id for spec in config.spec.instances]


def test_a_number_makes_copies_with_numbered_ids(instances: Instances) -> None:
    assert ids(instances("instance-id: a, instances: 3", "instance-id: b")) == ["a-1", "a-2", "a-3", "b"]


def test_a_list_makes_a_copy_for_each_word(instances: Instances) -> None:
    assert ids(instances("instance-id: 'dome-{instance}', instances: [north, 2]")) == ["dome-north", "dome-2"]


def test_the_placeholder_stands_in_every_text_of_the_entry(instances: Instances) -> None:
    config = instances(
        "instance-id: db, instances: 2",
        "instance-id: 'w{instance}', instances: 2, arguments: [--port, '500{instance}', ['{instance}']], "
        "env: {'N{instance}': 'x{instance}'}, working-dir: '/w/{instance}', "
        "ready: {tcp: '127.0.0.1:500{instance}'}, depends-on: {'db-{instance}': started}",
    )
    assert config.spec is not None, config.problems
    second = config.spec.instances[3]
    assert second.process is not None
    assert second.process.argv[2:] == ("--port", "5002", "2")
    assert (second.process.env, second.process.working_dir) == ((("N2", "x2"),), "/w/2")
    assert second.conditions == (("db-2", StartCondition.STARTED),)
    assert second.ready is not None
    assert getattr(second.ready.check, "port", None) == 5002


def test_the_key_may_come_from_a_merged_mapping(load: Callable[[str], LoadedConfig]) -> None:
    text = "x-pair: &pair {agent-class: Agent, instances: 2}\n" + HEAD + "    - {<<: *pair, instance-id: a}\n"
    assert ids(load(text)) == ["a-1", "a-2"]


def test_without_the_key_the_placeholder_is_plain_text(instances: Instances) -> None:
    config = instances("instance-id: a, arguments: ['{instance}']")
    assert config.spec is not None
    assert config.spec.instances[0].process is not None
    assert config.spec.instances[0].process.argv[-1] == "{instance}"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("0", "'instances' of instance 'a' must be a number from 1 to 1000, or a list of words, not '0'"),
        ("1001", "must be a number from 1 to 1000, or a list of words, not '1001'"),
        ("many", "must be a number from 1 to 1000, or a list of words, not 'many'"),
        ("[]", "must have 1 to 1000 words, not 0"),
        ("[x, y, x]", "has 'x' twice"),
        ("[[x]]", "must be a text, not a list"),
        ("[x/y]", "instance-id 'a-x/y' must have 1 to 80 characters"),
    ],
)
def test_wrong_copies_are_an_error_at_their_place(
    instances: Instances, errors: Errors, value: str, why: str
) -> None:
    [(line, column, message)] = errors(instances(f"instance-id: a, instances: {value}"))
    assert (line, why in message) == (5, True), message
    assert column > len("    - {agent-class: Agent, ")


def test_two_copies_with_one_id_are_an_error(instances: Instances, errors: Errors) -> None:
    [(line, _, message)] = errors(instances("instance-id: a-1", "instance-id: a, instances: 1"))
    assert (line, message) == (6, "instance-id 'a-1' is there twice (first in line 5)")


def test_the_manager_has_no_copies(instances: Instances, errors: Errors) -> None:
    message = errors(instances("agent-class: HostManager, instance-id: hm, instances: 2"))[0][2]
    assert "cannot have copies: a host has a single HostManager" in message


def test_a_reload_follows_the_number_of_copies(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    loader = RepeatedLoad()

    def read(number: int) -> list[str]:
        entries = f"    - {{agent-class: Agent, instance-id: a, instances: {number}}}\n"
        others = "".join(f"    - {{agent-class: Agent, instance-id: o{n}}}\n" for n in range(3))
        file.write_text(HEAD + entries + others, encoding="utf-8")
        return ids(loader.load(file, host="localhost"))

    assert read(2) == ["a-1", "a-2", "o0", "o1", "o2"]
    assert read(2) == ["a-1", "a-2", "o0", "o1", "o2"]
    assert read(1) == ["a-1", "o0", "o1", "o2"]
    assert read(3) == ["a-1", "a-2", "a-3", "o0", "o1", "o2"]
