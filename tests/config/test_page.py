"""The documentation of the site config: all keys, and a valid example."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hostmanager_server.config.instance_keys import BACKOFF_KEYS, KEYS, LIMITS, LOG_KEYS, RESTART_KEYS
from hostmanager_server.config.instances import OCS_KEYS
from hostmanager_server.config.load import CROSSBAR_KEYS, HOST_KEYS, HUB_KEYS, TOP_KEYS, LoadedConfig
from hostmanager_server.config.manage import MANAGE
from hostmanager_server.config.manager_options import QUIET, TAKES_VALUE
from hostmanager_server.config.probes import ALIVE_KEYS, READY_KEYS
from hostmanager_server.config.schedule import SCHEDULE_KEYS
from hostmanager_server.config.templates import KEY as COPIES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "site-config.md").read_text(
    encoding="utf-8"
)


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def keys_of(title: str) -> set[str]:
    first_cells = re.findall(r"^\| (`[^|]*) \|", section(title), re.MULTILINE)
    return set(re.findall(r"`([^`]+)`", " ".join(first_cells)))


@pytest.mark.parametrize(
    ("title", "known"),
    [
        ("Top level", {*TOP_KEYS}),
        ("Hosts", {*HOST_KEYS}),
        ("Instances", {*OCS_KEYS, COPIES, *MANAGE}),
        ("Keys of agents", {*KEYS}),
    ],
)
def test_the_tables_list_every_key_and_no_other(title: str, known: set[str]) -> None:
    assert keys_of(title) - {"manage"} == known - {"manage"}


@pytest.mark.parametrize("name", [
    *HUB_KEYS, *CROSSBAR_KEYS, *TAKES_VALUE, QUIET, *READY_KEYS, *ALIVE_KEYS, *RESTART_KEYS, *BACKOFF_KEYS,
    *LOG_KEYS, *LIMITS, *SCHEDULE_KEYS,
])  # fmt: skip
def test_the_page_has_every_name_within_a_key(name: str) -> None:
    assert re.search(rf"[`{{ ]{name}[`:]", PAGE.partition("\n## ")[2])


def test_the_example_has_every_key_and_no_problem(load: Callable[[str], LoadedConfig]) -> None:
    example = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0]
    config = load(example)
    assert config.problems == ()
    assert config.spec is not None
    assert [spec.instance_id for spec in config.spec.instances] == ["thermo1", "data1", "backup"]
    assert [key for key in KEYS if f"{key}:" not in example] == []
