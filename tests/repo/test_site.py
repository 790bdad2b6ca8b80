"""Builds of the documentation site: warnings, dead links and foreign files."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.repo.pages import PAGES, ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("sphinx") is None, reason="Sphinx is not installed (make docs)"),
]

LOADS = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*(?:src|href)=\"((?:https?:)?//[^\"]+)\"")


def build(source: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of the pages in `source` as `make docs` does."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    flags = re.search(r"sphinx-build -c docs -d \S+ (.*) \. \S+$", makefile, re.MULTILINE)
    assert flags is not None
    return subprocess.run(
        [sys.executable, "-m", "sphinx", "-c", "docs", "-d", f"{site}.cache", *flags[1].split(), ".", site],
        cwd=source, capture_output=True, text=True, check=False,
    )  # fmt: skip


def copy_of_the_pages(folder: Path) -> Path:
    """Copy the pages and the targets of their links."""
    for page in PAGES:
        if page.parent == ROOT:
            shutil.copy(page, folder)
    shutil.copy(ROOT / "LICENSE", folder)
    for name in ("docs", "examples", "protos", "server"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc", "__pycache__"))
    return folder


def test_the_site_builds_without_a_warning_and_loads_nothing_from_other_hosts(tmp_path: Path) -> None:
    done = build(ROOT, tmp_path / "site")
    assert (done.returncode, done.stderr) == (0, "")
    pages = sorted((tmp_path / "site").glob("**/*.html"))
    assert len(pages) > len(PAGES)
    loaded = {url for page in pages for url in LOADS.findall(page.read_text(encoding="utf-8"))}
    styles = "".join(sheet.read_text(encoding="utf-8") for sheet in (tmp_path / "site").glob("**/*.css"))
    assert loaded == set()
    assert re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//", styles) == []


def test_dead_links_and_forgotten_pages_fail_the_build(tmp_path: Path) -> None:
    source = copy_of_the_pages(tmp_path)
    (source / "docs" / "how-to" / "forgotten.md").write_text("# Forgotten\n", encoding="utf-8")
    dead = ("nowhere.md", "reference/states.md#no-such-part", "../examples/nothing.yaml")
    page = source / "docs" / "glossary.md"
    links = "\n".join(f"[a link]({target})" for target in dead)
    page.write_text(f"{page.read_text(encoding='utf-8')}\n{links}\n", encoding="utf-8")
    done = build(source, tmp_path / "site")
    assert done.returncode != 0
    words = [*(re.split("[#/]", target)[-1] for target in dead), "forgotten"]
    assert [word for word in words if word not in done.stderr] == []
