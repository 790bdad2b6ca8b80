"""Included files of a site config."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hostmanager_server.config.last_good import LastGood
from hostmanager_server.config.load import LoadedConfig, load_all_hosts, load_site_config
from hostmanager_server.config.reload import RepeatedLoad
from hostmanager_server.core.event_log import Severity
from hostmanager_server.linux.trusted_paths import Trust

CLASSES = "agent-classes: {Agent: {command: [agent]}}\n"


def entry(name: str, more: str = "") -> str:
    return f"    - {{agent-class: Agent, instance-id: {name}{more}}}\n"


def host(*entries: str, name: str = "localhost", keys: str = "") -> str:
    return f"hosts:\n  {name}:\n{keys}    agent-instances:\n" + "".join(entries)


def write(folder: Path, **texts: str) -> Path:
    """Write files NAME.yaml into the folder, and return the path of site.yaml."""
    for name, text in texts.items():
        file = folder / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        file.chmod(0o600)
    return folder / "site.yaml"


def load(file: Path) -> LoadedConfig:
    return load_site_config(file, host="localhost", working_dir=file.parent)


def ids(config: LoadedConfig) -> list[str]:
    assert config.spec is not None, config.problems
    return [spec.instance_id for spec in config.spec.instances]


def places(config: LoadedConfig) -> list[tuple[str, int, str]]:
    return [(Path(p.file).name, p.line, p.message) for p in config.problems]


def test_hosts_instances_and_classes_of_all_files_are_joined(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        site="include: [a.yaml, b.yaml]\n" + host(entry("one")),
        a=CLASSES + host(entry("two", ", depends-on: [one]")) + "  elsewhere: {agent-instances: []}\n",
        b=host(entry("three")),
    )
    config = load(file)
    assert (ids(config), config.problems) == (["one", "two", "three"], ())
    assert [each.host for each in load_all_hosts(file)] == ["localhost", "elsewhere"]


def test_a_host_may_stand_in_an_included_file_only(tmp_path: Path) -> None:
    file = write(tmp_path, site="include: hosts.yaml\n" + CLASSES, hosts=host(entry("one")))
    assert ids(load(file)) == ["one"]


def test_paths_start_at_the_file_that_names_them(tmp_path: Path) -> None:
    site = "include: sub/a.yaml\n" + CLASSES + "hosts: {localhost: {agent-instances: []}}\n"
    file = write(tmp_path, site=site)
    write(
        tmp_path / "sub",
        a="include: b.yaml\n" + host(entry("one", ", env-file: one.env")),
        b=host(entry("two")),
    )
    (tmp_path / "sub" / "one.env").write_text("A=1\n")
    (tmp_path / "sub" / "one.env").chmod(0o600)
    config = load(file)
    assert (ids(config), config.problems) == (["one", "two"], ())
    assert config.spec is not None
    assert config.spec.instances[0].process is not None
    assert config.spec.instances[0].process.env_files[0].digest


def test_a_pattern_includes_its_files_in_order(tmp_path: Path) -> None:
    file = write(tmp_path, site="include: 'more/*.yaml'\n" + CLASSES + host(entry("one")))
    assert ids(load(file)) == ["one"]
    write(tmp_path / "more", c=host(entry("three")), b=host(entry("two")))
    assert ids(load(file)) == ["one", "two", "three"]


def test_problems_name_the_right_file_and_line(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        site="include: a.yaml\n" + CLASSES + host(entry("one"), entry("bad", ", manage: maybe")),
        a="# a comment\n" + host(entry("two"), entry("worse", ", nice: 99"), entry("odd", ", nicee: 1")),
    )
    found = places(load(file))
    assert [(name, line) for name, line, _ in found] == [("site.yaml", 7), ("a.yaml", 6), ("a.yaml", 7)]
    assert "did you mean 'nice'?" in found[2][2]


def test_an_error_of_yaml_stands_in_the_included_file(tmp_path: Path) -> None:
    file = write(tmp_path, site="include: a.yaml\n" + CLASSES + host(entry("one")), a="hosts:\n  - [\n")
    [(name, line, message)] = places(load(file))
    assert (name, line, message[:25]) == ("a.yaml", 3, "the file is not valid YAM")


def test_a_repetition_names_the_other_file(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        site="include: a.yaml\n" + CLASSES + host(entry("one"), keys="    log-dir: x\n"),
        a=CLASSES + host(entry("one"), keys="    log-dir: y\n"),
    )
    assert places(load(file)) == [
        ("a.yaml", 1, f"'agent-classes' has the key 'Agent' twice (first in line 2 of {file})"),
        ("a.yaml", 4, f"host 'localhost' has the key 'log-dir' twice (first in line 5 of {file})"),
        ("a.yaml", 6, f"instance-id 'one' is there twice (first in line 7 of {file})"),
    ]


def test_files_that_include_each_other_are_refused(tmp_path: Path) -> None:
    file = write(
        tmp_path, site="include: a.yaml\n" + host(entry("one")), a="include: b.yaml\n", b="include: a.yaml\n"
    )
    [(name, line, message)] = [each for each in places(load(file)) if "cannot include" in each[2]]
    assert (name, line) == ("b.yaml", 1)
    assert message.endswith(
        f"the files include each other: {tmp_path}/a.yaml -> {tmp_path}/b.yaml -> {tmp_path}/a.yaml"
    )
    assert load(file).spec is None


@pytest.mark.parametrize(
    ("include", "why"),
    [
        ("gone.yaml", "gone.yaml': cannot read the file: No such file or directory"),
        ("site.yaml", "the files include each other"),
        ("''", "'include' must name files, not an empty text"),
        ("[{}]", "an entry of 'include' must be a text, not a mapping"),
        ("[a.yaml, ./a.yaml]", "is included twice (first in line 1)"),
        ("list.yaml", "an included file must be a mapping"),
    ],
)
def test_a_wrong_include_is_an_error(tmp_path: Path, include: str, why: str) -> None:
    file = write(tmp_path, site=f"include: {include}\n" + host(), a="x-a: 1\n", list="- 1\n")
    config = load(file)
    assert config.spec is None
    assert any(why in message for _, _, message in places(config)), config.problems


def test_an_included_file_that_others_may_write_is_refused_for_root(tmp_path: Path) -> None:
    file = write(tmp_path, site="include: a.yaml\n" + CLASSES + host(entry("one")), a=host(entry("two")))
    (tmp_path / "a.yaml").chmod(0o666)
    config = load_site_config(file, host="localhost", trust=Trust(0))
    assert config.spec is None
    assert "others may choose what the daemon runs" in config.problems[0].message
    warned = load_site_config(file, host="localhost", trust=Trust(0, override=True))
    assert [Path(p.file).name for p in warned.problems if "may be written by others" in p.message] == [
        "a.yaml"
    ]


def test_secrets_of_a_public_included_file_are_reported_there(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        site="include: a.yaml\n" + CLASSES + host(entry("one")),
        a=host(entry("two", ", env: {API_TOKEN: x}")),
    )
    (tmp_path / "a.yaml").chmod(0o644)
    [(name, line, message)] = places(load(file))
    assert (name, line) == ("a.yaml", 4)
    assert "API_TOKEN' looks like a secret" in message


class Repeated:
    """A loader of a site with an included file, a pattern, and entries of its own."""

    def __init__(self, folder: Path) -> None:
        own = [entry(f"own{n}") for n in range(4)]
        self.folder = folder
        self.file = write(
            folder, site="include: [a.yaml, '*.inc.yaml']\n" + CLASSES + host(*own), a=host(entry("two"))
        )
        self._loader = RepeatedLoad()

    def load(self) -> LoadedConfig:
        config = self._loader.load(self.file, host="localhost", working_dir=self.folder)
        assert config == load(self.file), "the same as a reading of everything"
        return config


def test_a_reload_sees_every_change_of_an_included_file(tmp_path: Path) -> None:
    site = Repeated(tmp_path)
    assert len(ids(site.load())) == 5
    assert len(ids(site.load())) == 5
    write(tmp_path, a=host(entry("two"), entry("three")))
    assert ids(site.load())[-2:] == ["two", "three"]
    (tmp_path / "x.inc.yaml").write_text(host(entry("four")))
    (tmp_path / "x.inc.yaml").chmod(0o600)
    assert ids(site.load())[-1] == "four"
    (tmp_path / "x.inc.yaml").unlink()
    assert ids(site.load())[-1] == "three"
    (tmp_path / "a.yaml").unlink()
    assert site.load().spec is None
    write(tmp_path, a=host(entry("own1")))
    assert "is there twice" in site.load().problems[0].message
    write(tmp_path, a=host(entry("five")))
    assert ids(site.load())[-1] == "five"
    (tmp_path / "a.yaml").chmod(0o666)
    assert any("may be written" in problem.message for problem in site.load().problems)


def test_the_copy_of_the_last_good_config_has_the_included_files(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    site = tmp_path / "site"
    file = write(
        site, site="include: [a.yaml, 'd/*.yaml']\n" + CLASSES + host(entry("one")), a=host(entry("two"))
    )
    write(site / "d", x=host(entry("three")))
    last_good = LastGood(state)
    last_good.keep(load(file))
    for name in ("a.yaml", "d/x.yaml"):
        os.unlink(site / name)
    config = last_good.load(file, host="localhost", working_dir=site)
    assert (config.stale, ids(config)) == (True, ["one", "two", "three"])
    assert any(problem.severity is Severity.ERROR for problem in config.problems)
