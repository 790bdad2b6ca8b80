"""Sources of a native agent's command, with a fake OCS and installed agents."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import NoReturn

import pytest
from hostmanager_server.config.load import LoadedConfig, load_site_config


def install(folder: Path, name: str, entry_points: str, modules: dict[str, str]) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    for path, code in modules.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def load(folder: Path, agent_class: str) -> LoadedConfig:
    file = folder / "site.yaml"
    file.write_text(
        "agent-classes: {Listed: {command: listed}, Described: {env: {A: b}}}\n"
        "hosts: {lab: {agent-instances: [\n"
        f"{{agent-class: {agent_class}, instance-id: a, arguments: [--port, 1]}}]}}}}\n"
    )
    file.chmod(0o600)
    return load_site_config(file, host="lab", working_dir=folder)


def found(config: LoadedConfig) -> tuple[str, tuple[str, ...]]:
    assert config.spec is not None
    process = config.spec.instances[0].process
    assert process is not None
    return process.source, process.argv


OCS_PLUGIN = "[ocs.plugins]\nocs = {}\n"
OCS = """
print("a line that is not part of the answer")
import os
os.write(1, b"nor is this")
with open({imports!r}, "a") as file:
    file.write("x")
agents = {{"FakeDataAgent": {{"module": "x", "entry_point": "main"}}, "Listed": {{}}, "Installed": {{}}}}
"""


def test_ocs_starts_the_classes_of_its_plugins_and_finds_the_arguments_itself(
    packages: Path, tmp_path: Path
) -> None:
    imports = tmp_path / "imports"
    plugin = OCS.format(imports=str(imports))
    install(
        packages, "fake_ocs", "[ocs.plugins]\nocs = ocs.plugin\n",
        {"ocs/__init__.py": "", "ocs/agent_cli.py": "", "ocs/plugin.py": plugin},
    )  # fmt: skip
    for _ in range(3):
        config = load(tmp_path, "FakeDataAgent")
        assert found(config) == (
            "ocs",
            (
                sys.executable, "-m", "ocs.agent_cli",
                "--instance-id", "a",
                "--site-file", str(tmp_path / "site.yaml"),
                "--site-host", "lab",
                "--working-dir", str(tmp_path),
            ),
        )  # fmt: skip
        assert config.problems == ()
    assert imports.read_text() == "x", "the plugins were imported more than once"
    assert found(load(tmp_path, "Listed")) == ("agent-classes", ("listed", "--port", "1"))


def test_ocs_gets_a_relative_site_file_as_an_absolute_path(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(packages, "fake_ocs2", OCS_PLUGIN.format("plugin2"), {"plugin2.py": "agents = {'A': {}}"})
    load(tmp_path, "A")
    monkeypatch.chdir(tmp_path)
    config = load_site_config(Path("site.yaml"), host="lab", working_dir=Path("sub"))
    argv = found(config)[1]
    assert str(tmp_path / "site.yaml") in argv
    assert argv[-1] == str(tmp_path / "sub")


def test_a_plugin_that_cannot_be_loaded_is_a_warning(packages: Path, tmp_path: Path) -> None:
    install(
        packages, "fake_ocs3", "[ocs.plugins]\nbad = broken3\ngood = plugin3\n",
        {"broken3.py": "raise RuntimeError('no such device')", "plugin3.py": "agents = {'A': {}}"},
    )  # fmt: skip
    config = load(tmp_path, "A")
    assert found(config)[0] == "ocs"
    assert [p.message for p in config.problems] == [
        "cannot load the OCS plugin 'bad': RuntimeError: no such device"
    ]


def test_a_plugin_that_is_repaired_without_a_new_version_is_found(packages: Path, tmp_path: Path) -> None:
    install(
        packages, "fake_ocs6", OCS_PLUGIN.format("plugin6"),
        {"plugin6.py": "import missing6\nagents = {'A': {}}"},
    )  # fmt: skip
    assert "No module named 'missing6'" in load(tmp_path, "A").problems[0].message
    (packages / "missing6.py").write_text("")
    config = load(tmp_path, "A")
    assert found(config)[0] == "ocs"
    assert config.problems == ()


def test_a_plugin_that_exits_when_it_is_imported_leaves_the_others(packages: Path, tmp_path: Path) -> None:
    install(
        packages, "fake_ocs7", "[ocs.plugins]\nbad = exits7\ngood = plugin7\n",
        {"exits7.py": "raise SystemExit(3)", "plugin7.py": "agents = {'A': {}}"},
    )  # fmt: skip
    config = load(tmp_path, "A")
    assert found(config)[0] == "ocs"
    assert [p.message for p in config.problems] == ["cannot load the OCS plugin 'bad': SystemExit: 3"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os._exit(3)", "ended with exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", "ended with signal 9"),
    ],
)
def test_the_reason_why_ocs_cannot_list_its_classes_is_one_line(
    packages: Path, tmp_path: Path, code: str, reason: str
) -> None:
    install(packages, "fake_ocs8", OCS_PLUGIN.format("plugin8"), {"plugin8.py": code})
    assert load(tmp_path, "A").problems[0].message == (
        f"cannot list the agent classes of the installed OCS: importing its plugins {reason}"
    )


def test_a_plugin_that_ends_the_import_is_a_warning_and_is_tried_again(
    packages: Path, tmp_path: Path
) -> None:
    install(packages, "fake_ocs4", OCS_PLUGIN.format("plugin4"), {"plugin4.py": "import os; os._exit(3)"})
    config = load(tmp_path, "A")
    assert config.ok
    assert "cannot list" in config.problems[0].message
    (packages / "plugin4.py").write_text("agents = {'A': {}}  # repaired")
    assert found(load(tmp_path, "A"))[0] == "ocs"


def test_an_installed_entry_point_is_run_with_the_arguments(packages: Path, tmp_path: Path) -> None:
    install(
        packages, "lab_agents",
        "[hostmanager.agents]\nInstalled = lab5:Agent.main\nModule = lab5\nListed = lab5\n",
        {"lab5.py": ""},
    )  # fmt: skip
    code = "import sys; from lab5 import Agent; sys.exit(Agent.main())"
    source = "entry point hostmanager.agents"
    assert found(load(tmp_path, "Installed")) == (source, (sys.executable, "-P", "-c", code, "--port", "1"))
    assert found(load(tmp_path, "Module")) == (source, (sys.executable, "-P", "-m", "lab5", "--port", "1"))
    assert found(load(tmp_path, "Listed"))[0] == "agent-classes"


def test_a_class_that_is_described_but_has_no_command_has_none(tmp_path: Path) -> None:
    config = load(tmp_path, "Described")
    assert config.spec is not None
    assert config.spec.instances[0].process is None
    assert "did you mean" not in config.spec.instances[0].problem


def test_installed_packages_are_not_listed_for_instances_with_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed(**_: str) -> NoReturn:
        raise AssertionError("a start must not read the metadata of all installed packages")

    monkeypatch.setattr(metadata, "entry_points", listed)
    assert load(tmp_path, "Listed").ok


def test_entries_that_ocs_s_launcher_cannot_find_are_reported(packages: Path, tmp_path: Path) -> None:
    install(packages, "fake_ocs9", OCS_PLUGIN.format("plugin9"), {"plugin9.py": "agents = {'A': {}}"})
    more = "hosts: {lab: {agent-instances: [{agent-class: A, instance-id: c}]}}\n"
    (tmp_path / "more.yaml").write_text(more)
    file = tmp_path / "site.yaml"
    file.write_text(
        "include: more.yaml\n"
        "hosts: {lab: {agent-instances: [{agent-class: A, instance-id: a},"
        " {agent-class: A, instance-id: b, instances: 1}]}}\n"
    )
    config = load_site_config(file, host="lab", working_dir=tmp_path)
    reasons = [problem.message.partition("OCS's launcher finds no ")[2] for problem in config.problems]
    assert reasons == [
        "copies ('instances'); give the instance a 'command'",
        f"entries of included files, only those of {file}; give the instance a 'command'",
    ]
