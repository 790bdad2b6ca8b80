"""Error messages for missing or unsuitable dependencies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hostmanager_client.cli.installation import unmet_requirements

PROGRAM = "from hostmanager_client.cli import main; main()"


def install_fake(folder: Path, name: str, version: str, module: str = "", requires: str = "") -> None:
    """Shadow a package by one with this version; the import of its `module` fails."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}")
    if module:
        package = folder / module.replace(".", "/")
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise RuntimeError('gencode 6.31.1 runtime 5.29.0')\n")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "HOSTMANAGER_ADDRESS": str(folder / "no.sock")}
    environment.pop("HOSTMANAGER_DEBUG", None)
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", ["status", "serve"])
@pytest.mark.parametrize(
    ("name", "version", "module"),
    [
        ("protobuf", "5.29.0", "google/protobuf"),
        ("protobuf", "8.0.0", "google/protobuf"),
        ("grpcio", "1.60.0", "grpc"),
        ("click", "7.0", "click"),
    ],
)
def test_an_unsuitable_dependency_is_named_with_a_remedy(
    tmp_path: Path, command: str, name: str, version: str, module: str
) -> None:
    install_fake(tmp_path, name, version, module)
    done = run(tmp_path, command)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("Error: cannot run hostmanager: ")
    assert f"and {version} is installed" in done.stderr
    assert f"{sys.executable} -m pip install" in done.stderr
    assert f"'{name}" in done.stderr
    assert "gencode 6.31.1 runtime 5.29.0" in done.stderr
    assert "This is a bug" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_failure_with_suitable_dependencies_is_called_a_bug(tmp_path: Path) -> None:
    broken = tmp_path / "google/protobuf"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('broken')\n")
    done = run(tmp_path, "status")
    assert done.returncode == 70
    assert "RuntimeError: broken). This is a bug" in done.stderr


def test_missing_dependencies_of_dependencies_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert unmet_requirements("hostmanager") == []
    requires = (
        'Requires-Dist: protobuf>=99\nRequires-Dist: no-such-package; extra == "x"\nRequires-Dist: gone-1'
    )
    install_fake(tmp_path, "grpcio-status", "1.80.0", requires=requires)
    monkeypatch.syspath_prepend(str(tmp_path))
    first, second = map(str, unmet_requirements("hostmanager"))
    assert first.startswith("grpcio-status 1.80.0 needs protobuf>=99, and ")
    assert second == "grpcio-status 1.80.0 needs gone-1, which is not installed"
