"""`depends-on` in the site config: unknown, unmanaged and circular dependencies."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hostmanager_server.config.load import LoadedConfig
from hostmanager_server.core.spec import StartCondition

Instances = Callable[..., LoadedConfig]
Errors = Callable[[LoadedConfig], list[tuple[int, int, str]]]


def test_a_dependency_that_cannot_start_is_a_warning_at_its_place(instances: Instances) -> None:
    config = instances(
        "instance-id: a, depends-on: [b]",
        "instance-id: b, agent-class: Nobody",
        "instance-id: c, depends-on: [a]",
    )
    assert [(p.line, p.column, p.message) for p in config.problems if "waits" in p.message] == [
        (5, 57, "instance 'a' waits for 'b', which cannot start")
    ]


def test_dependencies_are_kept_in_order_each_once(instances: Instances) -> None:
    config = instances("instance-id: a, depends-on: [c, b, c]", "instance-id: b", "instance-id: c")
    assert config.spec is not None
    assert config.spec.instances[0].depends_on == ("c", "b")


def test_dependencies_may_have_conditions_as_words_or_as_in_compose_files(instances: Instances) -> None:
    config = instances(
        "instance-id: a, depends-on: {b: completed, c: {condition: started}, d: {}}",
        "instance-id: b",
        "instance-id: c",
        "instance-id: d",
    )
    assert config.spec is not None
    assert config.spec.instances[0].depends_on == ("b", "c", "d")
    assert config.spec.instances[0].conditions == (
        ("b", StartCondition.COMPLETED),
        ("c", StartCondition.STARTED),
    )


@pytest.mark.parametrize("wrong", ["reddy", "{condition: reddy}"])
def test_an_unknown_condition_is_an_error_at_its_place(
    instances: Instances, errors: Errors, wrong: str
) -> None:
    ((line, _, message),) = errors(instances(f"instance-id: a, depends-on: {{b: {wrong}}}", "instance-id: b"))
    assert line == 5
    assert "must be started, ready or completed, not 'reddy' (did you mean 'ready'?)" in message


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ("a", "itself"),
        ("data", "'data', which this host does not have (did you mean 'data1'?)"),
        ("gone", "'gone', which is not managed"),
        ("hm", "'hm', which is not managed"),
    ],
)
def test_a_dependency_that_can_never_be_up_is_an_error_at_its_place(
    instances: Instances, errors: Errors, other: str, why: str
) -> None:
    config = instances(
        f"instance-id: a, depends-on: [{other}]",
        "instance-id: data1",
        "instance-id: gone, manage: no",
        "agent-class: HostManager, instance-id: hm",
    )
    assert errors(config) == [(5, 57, f"instance 'a' cannot depend on {why}")]


def test_a_circle_of_dependencies_is_an_error_that_names_it(instances: Instances, errors: Errors) -> None:
    config = instances(
        "instance-id: a, depends-on: [b]",
        "instance-id: b, depends-on: [c]",
        "instance-id: c, depends-on: [a]",
    )
    [(line, column, message)] = errors(config)
    assert (line, column) in [(5, 57), (6, 57), (7, 57)]
    assert any(circle in message for circle in ("a -> b -> c -> a", "b -> c -> a -> b", "c -> a -> b -> c"))
