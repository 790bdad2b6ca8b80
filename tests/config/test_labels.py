"""The key `labels` of hosts, classes and instances."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hostmanager_server.config.load import LoadedConfig
from hostmanager_server.core.catalog import Catalog, Project, with_services
from hostmanager_server.core.spec import ServiceSpec

Load = Callable[[str], LoadedConfig]
Instances = Callable[..., LoadedConfig]
Errors = Callable[[LoadedConfig], list[tuple[int, int, str]]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[cold, rack=3]", (("cold", ""), ("rack", "3"))),
        ("{rack: 3, cold: }", (("cold", ""), ("rack", "3"))),
        ("cold", (("cold", ""),)),
        ("", ()),
        ("[]", ()),
        ("{lab.example/rack: top left}", (("lab.example/rack", "top left"),)),
    ],
)
def test_labels_are_a_list_or_a_mapping(
    instances: Instances, text: str, expected: tuple[tuple[str, str], ...]
) -> None:
    config = instances(f"instance-id: a, labels: {text}")
    assert config.problems == ()
    assert config.spec is not None
    assert config.spec.instances[0].labels == expected


def test_labels_of_host_class_and_instance_merge_name_by_name(load: Load) -> None:
    config = load(
        "agent-classes: {Agent: {command: [a], labels: {kind: sensor, rack: class}}}\n"
        "hosts:\n  localhost:\n    labels: [dome, rack=host, kind=host]\n    agent-instances:\n"
        "    - {agent-class: Agent, instance-id: a, labels: {rack: 7}}\n"
        "    - {agent-class: Agent, instance-id: b}\n"
    )
    assert config.spec is not None, config.problems
    labels = [dict(spec.labels) for spec in config.spec.instances]
    assert labels == [
        {"dome": "", "kind": "sensor", "rack": "7"},
        {"dome": "", "kind": "sensor", "rack": "class"},
    ]


def test_compose_services_without_an_entry_have_the_labels_of_the_host(load: Load) -> None:
    config = load("hosts: {localhost: {labels: dome, agent-instances: []}}")
    assert config.spec is not None
    service = ServiceSpec("lab", ("/lab/compose.yaml",), "db", "db:1")
    catalog = Catalog(projects=(Project("lab", ("/lab/compose.yaml",), {"db": service}),))
    [found] = with_services(config.spec, catalog).instances
    assert found.labels == (("dome", ""),)


@pytest.mark.parametrize(
    ("labels", "column", "why"),
    [
        ("[-x]", 53, "'-x' in 'labels' of instance 'a' is no label"),
        ("[a b]", 53, "is no label"),
        ("['=3']", 53, "'' in 'labels' of instance 'a' is no label"),
        ("[rack=3, rack=4]", 61, "has the label 'rack' twice"),
        ("{rack: [3]}", 59, "must be a text, not a list"),
        ("{rack: ' 3'}", 53, "the value ' 3' of label 'rack'"),
        (f"[{'x' * 64}]", 53, "is no label"),
        (f"[{', '.join(f'l{n}' for n in range(33))}]", 52, "has 33 labels; the most is 32"),
        ("[[a]]", 53, "must be a text, not a list"),
    ],
)
def test_a_bad_label_is_an_error_with_its_place(
    instances: Instances, errors: Errors, labels: str, column: int, why: str
) -> None:
    [(line, at, message)] = errors(instances(f"instance-id: a, labels: {labels}"))
    assert (line, at) == (5, column)
    assert why in message
