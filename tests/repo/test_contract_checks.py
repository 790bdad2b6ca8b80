"""The contract checks of `make check`, run in small temporary repositories."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = "protos/hostmanager/v1/host_manager.proto"
SMALL_CONTRACT = """syntax = "proto3";
package hostmanager.v1;
message Thing {
  string name = 1;
  string colour = 2;
}
"""


def environment() -> dict[str, str]:
    """Return variables for git and buf without the caller's configuration."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GIT_", "CONTRACT_", "GENERATORS"))
    }
    return kept | {
        "VENV": sys.prefix,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "test",
        "GIT_AUTHOR_EMAIL": "test@localhost",
        "GIT_COMMITTER_NAME": "test",
        "GIT_COMMITTER_EMAIL": "test@localhost",
    }


@dataclass(frozen=True, slots=True)
class Repository:
    path: Path

    def git(self, *arguments: str) -> None:
        command = ["git", "-c", "init.defaultBranch=main", *arguments]
        subprocess.run(command, cwd=self.path, env=environment(), check=True, capture_output=True)

    def write(self, contract: str) -> None:
        (self.path / CONTRACT).parent.mkdir(parents=True, exist_ok=True)
        (self.path / CONTRACT).write_text(contract)

    def commit(self, contract: str | None = None) -> None:
        if contract is not None:
            self.write(contract)
        self.git("add", "--all")
        self.git("commit", "--allow-empty", "--message", "a commit")

    def check_breaking(self, **variables: str) -> tuple[int, str]:
        """Return the exit code and the output of `scripts/check-breaking`."""
        return self.run("check-breaking", **variables)

    def run(self, script: str, **variables: str) -> tuple[int, str]:
        done = subprocess.run(
            [self.path / "scripts" / script],
            env=environment() | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Return a repository with the scripts and no commit."""
    path = tmp_path / "repository"
    shutil.copytree(ROOT / "scripts", path / "scripts")
    shutil.copy(ROOT / "buf.yaml", path)
    made = Repository(path)
    made.git("init")
    return made


def without_colour(contract: str) -> str:
    return contract.replace("  string colour = 2;\n", "")


def test_without_any_commit_there_is_nothing_to_break(repository: Repository) -> None:
    repository.write(SMALL_CONTRACT)
    code, output = repository.check_breaking()
    assert code == 0
    assert "skipped: no commit" in output


def test_the_first_contract_breaks_nothing(repository: Repository) -> None:
    repository.commit()
    repository.commit(SMALL_CONTRACT)
    code, output = repository.check_breaking()
    assert code == 0
    assert "skipped: main has no earlier contract" in output


def test_a_breaking_change_on_a_branch_is_found(repository: Repository) -> None:
    repository.commit(SMALL_CONTRACT)
    repository.git("checkout", "-b", "topic")
    repository.commit(without_colour(SMALL_CONTRACT))
    code, output = repository.check_breaking()
    assert code != 0
    assert 'field "2" with name "colour"' in output


def test_a_breaking_change_is_found_before_it_is_committed(repository: Repository) -> None:
    repository.commit(SMALL_CONTRACT)
    repository.write(without_colour(SMALL_CONTRACT))
    assert repository.check_breaking()[0] != 0


def test_a_breaking_change_on_main_is_found_at_its_commit(repository: Repository) -> None:
    repository.commit(SMALL_CONTRACT)
    repository.commit(without_colour(SMALL_CONTRACT))
    assert repository.check_breaking()[0] != 0
    repository.commit()
    code, output = repository.check_breaking()
    assert (code, "nothing breaks" in output) == (0, True)


def test_an_addition_breaks_nothing(repository: Repository) -> None:
    repository.commit(SMALL_CONTRACT)
    repository.commit(SMALL_CONTRACT + "message Another {}\n")
    code, output = repository.check_breaking()
    assert code == 0
    assert "nothing breaks since" in output


def test_a_clone_compares_with_the_main_it_came_from(repository: Repository, tmp_path: Path) -> None:
    repository.commit(SMALL_CONTRACT)
    repository.git("clone", "--branch", "main", str(repository.path), str(tmp_path / "clone"))
    clone = Repository(tmp_path / "clone")
    clone.commit(without_colour(SMALL_CONTRACT))
    assert clone.check_breaking()[0] != 0


def test_a_shallow_clone_skips_the_check_with_the_reason(repository: Repository, tmp_path: Path) -> None:
    repository.commit(SMALL_CONTRACT)
    repository.commit()
    source = f"file://{repository.path}"
    repository.git("clone", "--depth", "1", source, str(tmp_path / "clone"))
    code, output = Repository(tmp_path / "clone").check_breaking()
    assert code == 0
    assert "skipped: main has no earlier contract here" in output


def test_the_commit_to_compare_with_can_be_named(repository: Repository) -> None:
    repository.commit(SMALL_CONTRACT)
    repository.commit(without_colour(SMALL_CONTRACT))
    repository.commit()
    assert repository.check_breaking(CONTRACT_BASE="HEAD~2")[0] != 0


def test_stubs_of_another_contract_are_found(repository: Repository) -> None:
    repository.write(SMALL_CONTRACT)
    shutil.copytree(ROOT / "protos/hostmanager", repository.path / "protos/hostmanager", dirs_exist_ok=True)
    code, output = repository.run("check-stubs")
    assert (code, "stubs: as the contract generates them" in output) == (0, True), output

    contract = repository.path / CONTRACT
    contract.write_text(contract.read_text() + "\nmessage Another {}\n")
    code, output = repository.run("check-stubs")
    assert code != 0
    assert "make proto" in output
