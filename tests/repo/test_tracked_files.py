"""Tests of the files that git tracks."""

from __future__ import annotations

import subprocess

from tests.repo.pages import ROOT


def test_no_tracked_file_is_ignored() -> None:
    command = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert listed.stdout.splitlines() == []
