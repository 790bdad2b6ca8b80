"""Unknown keys in the site config, and known keys that the daemon ignores."""

from __future__ import annotations

from collections.abc import Callable

from hostmanager_server.config.load import LoadedConfig
from hostmanager_server.core.spec import Target

Load = Callable[[str], LoadedConfig]


def test_an_unknown_key_is_a_warning_with_a_suggestion_at_every_level(load: Load) -> None:
    config = load(
        """
hub: {wamp_servr: x}
host: {}
agent-classes: {Agent: {command: agent, evn: {}}}
hosts:
  localhost:
    crossbar: {config-dri: x}
    logdir: x
    agent-instances:
    - {agent-class: Agent, instance-id: a, argumnets: [], restart: {polcy: never, backoff: {fctor: 2}},
       log: {keeep: 1}, ready: {tcp: 1, intervall: 1}}
"""
    )
    assert config.ok
    assert sorted(problem.message.partition("(")[2] for problem in config.problems) == sorted(
        f"did you mean {key!r}?)"
        for key in (
            "hosts",
            "wamp_server",
            "env",
            "log-dir",
            "config-dir",
            "arguments",
            "interval",
            "policy",
            "factor",
            "keep",
        )
    )
    assert all(problem.line and problem.column for problem in config.problems)


def test_every_key_of_ocs_and_every_extension_is_accepted_without_warning(load: Load) -> None:
    config = load(
        """
x-defaults: &defaults {manage: down}
hub: {wamp_server: a, wamp_http: b, wamp_realm: c, address_root: d, access_policy: e, registry_address: f}
hosts:
  localhost:
    {wamp_server: a, wamp_http: b, wamp_realm: c, crossbar: {bin: x, config-dir: y}, crossbar_timeout: 10,
     crossbar-timeout: 20, agent-paths: [x], log-dir: null,
     agent-instances: [{agent-class: A, instance-id: a, arguments: [], command: x, <<: *defaults}]}
  other: {crossbar: null, agent-instances: null}
"""
    )
    assert config.problems == ()
    assert config.spec is not None
    assert [spec.initial_target for spec in config.spec.instances] == [Target.DOWN]
