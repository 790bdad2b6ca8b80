"""Completeness of the reference pages: exit codes, and reasons of errors."""

from __future__ import annotations

import re

from hostmanager_client.cli.failure import EXIT_CODES

from tests.repo.pages import ROOT

REFERENCE = ROOT / "docs" / "reference"


def page(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def test_the_page_of_exit_codes_lists_those_of_the_help() -> None:
    command_line = page("exit-codes.md").partition("## The command line")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| (\d+) \|", command_line, re.MULTILINE)
    assert listed == re.findall(r"^  (\d+) ", EXIT_CODES, re.MULTILINE)


def test_the_page_of_the_api_lists_every_reason_of_an_error() -> None:
    table = page("api.md").partition("## Errors")[2].partition("\n## ")[0]
    rows = "".join(re.findall(r"^\| `[A-Z_]+` \| (.*?) \|", table, re.MULTILINE))
    listed = set(re.findall(r"`([A-Z_]+)`", rows))
    rpc = ROOT / "server" / "hostmanager_server" / "rpc"
    source = "".join(file.read_text(encoding="utf-8") for file in rpc.glob("**/*.py"))
    named = set(re.findall(r'"([A-Z]+(?:_[A-Z]+)+)"', source))
    named -= set(re.findall(r"^([A-Z_]+)\b.* = ", source, re.MULTILINE))  # constants of the code
    assert named >= {"UNKNOWN_INSTANCE", "INVALID_REQUEST"}
    assert named - listed == set()
