"""The keys `on-failure` and `on-recover`."""

from __future__ import annotations

from pathlib import Path

from hostmanager_server.config.load import LoadedConfig, load_site_config
from hostmanager_server.core.spec import HOOK_TIMEOUT, Hook


def load(folder: Path, text: str) -> LoadedConfig:
    file = folder / "site.yaml"
    file.write_text(text)
    return load_site_config(file, working_dir=folder)


def test_the_hook_of_an_instance_replaces_that_of_its_class_and_of_the_host(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        """
agent-classes:
  B: {command: b, on-failure: {command: [of, class], timeout: 1m, user: nobody}}
  A: {command: a}
hosts:
  localhost:
    on-failure: of 'the host'
    on-recover: [ok]
    agent-instances:
      - {agent-class: A, instance-id: plain}
      - {agent-class: B, instance-id: classy}
      - {agent-class: B, instance-id: own, on-failure: [own], on-recover: none}
""",
    )
    assert config.spec is not None
    plain, classy, own = config.spec.instances
    folder = str(tmp_path)
    assert plain.on_failure == Hook(("of", "the host"), folder, "", HOOK_TIMEOUT)
    assert plain.on_recover == classy.on_recover == Hook(("ok",), folder)
    assert classy.on_failure == Hook(("of", "class"), folder, "nobody", 60.0)
    assert own.on_failure == Hook(("own",), folder)
    assert own.on_recover == Hook(())


def test_mistakes_in_a_hook_are_named(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        """
hosts:
  localhost:
    on-failure: {timeout: 5s}
    on-recover: {command: [x], timeout: 0, wait: 1}
    agent-instances:
      - {agent-class: A, instance-id: a, command: a, on-failure: []}
""",
    )
    assert not config.ok
    text = "\n".join(str(problem) for problem in config.problems)
    assert "'on-failure' of host 'localhost' has no 'command'" in text
    assert "'timeout' of 'on-recover' of host 'localhost'" in text
    assert "'wait'" in text
    assert "'on-failure' of instance 'a' must name a program" in text
