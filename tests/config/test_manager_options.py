"""Arguments of the HostManager entry, in every spelling of argparse."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hostmanager_server.config.load import LoadedConfig
from hostmanager_server.config.manager_options import ManagerOptions, PersistTargets
from hostmanager_server.core.spec import Target

Instances = Callable[..., LoadedConfig]
Errors = Callable[[LoadedConfig], list[tuple[int, int, str]]]
ENTRY = "agent-class: HostManager, instance-id: hm, arguments: "


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("[]", ManagerOptions()),
        ("null", ManagerOptions()),
        ("[--initial-state, up]", ManagerOptions(initial_state=Target.UP)),
        ("[[--initial-state, down], [[--quiet]]]", ManagerOptions(initial_state=Target.DOWN, quiet=True)),
        ("[--initial-state=down, --qui]", ManagerOptions(initial_state=Target.DOWN, quiet=True)),
        ("[--initial-state, up, --initial=down]", ManagerOptions(initial_state=Target.DOWN)),
        ("[--persist-targets, always]", ManagerOptions(persist_targets=PersistTargets.ALWAYS)),
        ("[--docker-compose, 'a.yaml, b.yaml,']", ManagerOptions(docker_compose=("a.yaml", "b.yaml"))),
        ("[--docker-compose=/x=y.yaml]", ManagerOptions(docker_compose=("/x=y.yaml",))),
        ("[--docker-service-prefix, '']", ManagerOptions(docker_service_prefix="")),
        ("[--docker-service-prefix=-x, --docker-compose-bin, 7]",
         ManagerOptions(docker_service_prefix="-x", docker_compose_bin="7")),
        ("[--crossbar-timeout, -1, --access-policy=none, --quiet]", ManagerOptions(quiet=True)),
    ],
)  # fmt: skip
def test_arguments_are_spelled_as_argparse_takes_them(
    instances: Instances, arguments: str, expected: ManagerOptions
) -> None:
    config = instances(ENTRY + arguments)
    assert config.problems == ()
    assert config.options == expected


@pytest.mark.parametrize(
    ("arguments", "place", "expected"),
    [
        ("[--quiet, --initial-state]", (5, 72), "needs a value"),
        ("[--initial-state, --quiet]", (5, 63), "needs a value"),
        ("[--initial-state, sideways]", (5, 80), "must be up or down, not 'sideways'"),
        ("[--persist-targets=often]", (5, 63), "must be never, crash or always, not 'often'"),
        ("[--docker-comp=x]", (5, 63), "may be any of --docker-compose, --docker-compose-bin"),
        ("[--quiet=1]", (5, 63), "takes no value"),
    ],
)
def test_a_wrong_argument_is_an_error_at_its_place(
    instances: Instances, errors: Errors, arguments: str, place: tuple[int, int], expected: str
) -> None:
    [(line, column, message)] = errors(instances(ENTRY + arguments))
    assert (line, column) == place
    assert expected in message


def test_an_unknown_argument_is_a_warning_with_a_suggestion(instances: Instances) -> None:
    config = instances(ENTRY + "[--quite, stray]")
    assert config.ok
    assert "did you mean '--quiet'?" in config.problems[0].message
    assert (config.problems[1].line, config.problems[1].column) == (5, 72)


def test_the_daemons_own_entry_is_not_an_instance_and_a_second_one_is_a_warning(instances: Instances) -> None:
    config = instances(ENTRY + "[--quiet], manage: whatever", "agent-class: HostManager, instance-id: hm2")
    assert config.spec is not None
    assert config.spec.instances == ()
    assert config.options.quiet
    assert [(p.line, p.message) for p in config.problems] == [
        (6, "a second HostManager entry is ignored (first in line 5)")
    ]
