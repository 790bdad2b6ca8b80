"""The command `hostmanager init`, and the pages that show its file."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result
from hostmanager_client.cli.app import cli
from hostmanager_server.commands.init import FIRST_SITE

from tests.repo.pages import ROOT, blocks


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), env={"OCS_CONFIG_DIR": ""})


def test_the_first_site_is_good_on_this_machine(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    written = run("init", str(file))
    assert written.exit_code == 0
    assert f"start it: hostmanager serve {file}" in written.output
    checked = run("config", "check", str(file), "--here", "--host", "localhost", "--trust-config")
    assert checked.exit_code == 0, checked.output
    assert "host localhost has 2 managed instances" in checked.output


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text("mine")
    refused = run("init", str(file))
    assert (refused.exit_code, file.read_text()) == (1, "mine")
    assert "the file exists; name another file, or remove that one" in refused.output
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere")
    assert run("init", str(file)).exit_code == 1
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_is_missing_is_an_error(tmp_path: Path) -> None:
    refused = run("init", str(tmp_path / "gone" / "site.yaml"))
    assert refused.exit_code == 1
    assert "No such file or directory" in refused.output


def test_json_names_the_file(tmp_path: Path) -> None:
    answer = run("init", str(tmp_path / "a.yaml"), "--json")
    assert json.loads(answer.output) == {"file": str(tmp_path / "a.yaml")}


def test_the_readme_and_the_tutorial_show_the_file_that_init_writes() -> None:
    readme = [block.text for block in blocks(ROOT / "README.md") if block.language == "yaml"]
    assert FIRST_SITE in readme
    tutorial = [block.text for block in blocks(ROOT / "docs" / "tutorial" / "first-site.md")]
    assert f"# site.yaml\n{FIRST_SITE.partition(chr(10))[2].lstrip()}" in tutorial
