"""Site configs with errors in single entries: the others stay usable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hostmanager_server.config.load import LoadedConfig, load_site_config
from hostmanager_server.core.spec import Management

from tests.config.conftest import HEAD

Instances = Callable[..., LoadedConfig]
Load = Callable[[str], LoadedConfig]
GOOD = "instance-id: good"


def split(config: LoadedConfig) -> tuple[list[str], dict[str, str]]:
    """Return the ids of the good instances, and the problems of the others."""
    assert config.spec is None
    assert not config.ok
    used = config.without_bad_entries()
    assert not used.ok
    assert used.spec is not None, config.problems
    bad = {spec.instance_id: spec.problem for spec in used.spec.instances if spec.problem}
    assert set(bad) == {each for each in config.left_out if "line" not in each}
    return [spec.instance_id for spec in used.spec.instances if not spec.problem], bad


@pytest.mark.parametrize(
    "bad",
    [
        "instance-id: bad, nice: 99",
        "instance-id: bad, manage: maybe",
        "instance-id: bad, arguments: {}",
        "instance-id: bad, agent-class: [x]",
        "instance-id: bad, restart: {backoff: {factor: 0}}",
        "instance-id: bad, depends-on: nobody-here",
        "instance-id: bad, depends-on: [nobody-here]",
        "instance-id: bad, depends-on: [bad]",
        "instance-id: bad, instances: 0",
        "instance-id: bad, env-file: '~nobody-here/x'",
        "instance-id: bad, agent-class: Broken",
    ],
)
def test_an_error_in_an_entry_leaves_out_that_entry_only(instances: Instances, load: Load, bad: str) -> None:
    if "Broken" in bad:
        head = HEAD.replace("{Agent:", "{Broken: {command: [x], umask: 9}, Agent:")
        config = load(f"{head}    - {{agent-class: Agent, {GOOD}}}\n    - {{{bad}}}\n")
    else:
        config = instances(GOOD, bad)
    good, left_out = split(config)
    assert (good, list(left_out)) == (["good"], ["bad"])
    assert left_out["bad"].startswith("its entry in the site config has an error: ")
    assert "site.yaml:" in left_out["bad"]


def test_dependents_of_a_bad_entry_stay_and_wait(instances: Instances) -> None:
    config = instances("instance-id: db, nice: 99", "instance-id: app, depends-on: [db]", GOOD)
    assert split(config)[0] == ["app", "good"]
    assert any("'app' waits for 'db', which cannot start" in problem.message for problem in config.problems)


def test_a_bad_entry_keeps_its_place_among_the_others(instances: Instances) -> None:
    used = instances(GOOD, "instance-id: bad, nice: 99", "instance-id: last").without_bad_entries()
    assert used.spec is not None
    assert [spec.instance_id for spec in used.spec.instances] == ["good", "bad", "last"]


def test_all_instances_of_a_circle_are_left_out(instances: Instances) -> None:
    a, b, c = (f"instance-id: {n}, depends-on: [{d}]" for n, d in (("a", "b"), ("b", "a"), ("c", "a")))
    good, left_out = split(instances(a, b, c))
    assert (good, sorted(left_out)) == (["c"], ["a", "b"])


def test_an_entry_without_an_id_is_left_out(instances: Instances) -> None:
    config = instances("manage: up", GOOD)
    assert split(config) == (["good"], {})
    assert config.left_out == ("the entry in line 5",)


def test_copies_are_left_out_one_by_one(instances: Instances) -> None:
    config = instances("instance-id: w, instances: [1, x], ready: {tcp: '127.0.0.1:{instance}'}", GOOD)
    good, left_out = split(config)
    assert (good, list(left_out)) == (["w-1", "good"], ["w-x"])


def test_a_bad_entry_of_a_compose_service_stays_one(instances: Instances) -> None:
    config = instances("instance-id: a, manage: docker, up-after: soon", GOOD).without_bad_entries()
    assert config.spec is not None
    assert config.spec.instances[0].management is Management.DOCKER


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "    - [\n",
        HEAD + "    - {agent-class: Agent, instance-id: a}\n    - {agent-class: Agent, instance-id: a}\n",
        HEAD + "    - {agent-class: HostManager, instance-id: hm, arguments: [--initial-state, sideways]}\n",
        HEAD + "    - {agent-class: HostManager, instance-id: hm, nice: 99}\n",
        HEAD.replace("    agent-instances", "    log-dir: [x]\n    agent-instances"),
        HEAD.replace("    agent-instances", "    address: nowhere\n    agent-instances"),
        HEAD.replace("localhost", "elsewhere"),
        HEAD.replace("agent-instances:", "agent-instances: x"),
        "include: gone.yaml\n" + HEAD,
    ],
)
def test_an_error_of_the_whole_file_leaves_nothing(load: Load, text: str) -> None:
    config = load(text)
    assert config.spec is None
    assert config.without_bad_entries().spec is None


def test_a_good_file_leaves_nothing_out(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(HEAD + f"    - {{agent-class: Agent, {GOOD}}}\n")
    config = load_site_config(file, host="localhost")
    assert config.ok
    assert (config.left_out, config.partial, config.without_bad_entries()) == ((), None, config)
