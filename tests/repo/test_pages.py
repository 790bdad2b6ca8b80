"""The pages say what is so: their links lead somewhere, and the commands they name exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import click
import pytest
from hostmanager_client.cli.app import cli
from hostmanager_server.config.load import load_site_config

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if not target.startswith(("http:", "https:", "mailto:"))]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_the_readme_names_every_command_and_no_other() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `hostmanager ([a-z\\|]+)", readme, re.MULTILINE)
    named = {name for row in rows for name in row.replace("\\", "").split("|")}
    assert named == set(cli.list_commands(click.Context(cli)))


def test_the_python_sample_of_the_readme_is_python() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    samples = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert samples
    for sample in samples:
        ast.parse(sample)


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "docs/site-config.md"], ids=lambda page: page.name
)
def test_the_site_configs_of_the_pages_are_good(page: Path, tmp_path: Path) -> None:
    samples = re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    sites = [sample for sample in samples if "\nhosts:" in sample]
    assert sites
    for site in sites:
        file = tmp_path / "site.yaml"
        file.write_text(site, encoding="utf-8")
        assert_good(file)


@pytest.mark.parametrize("site", ["site.yaml", "weather-station/site.yaml"])
def test_the_example_sites_are_good(site: str) -> None:
    assert_good(ROOT / "examples" / site)


def assert_good(file: Path) -> None:
    """The site config has no problem, and a command for every instance."""
    loaded = load_site_config(file, host="localhost", working_dir=ROOT)
    assert loaded.problems == ()
    assert loaded.spec is not None
    assert [instance.problem for instance in loaded.spec.instances if instance.problem] == []
