"""Tests of the YAML loader for compose files, and of its limits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hostmanager_server.drivers.compose.files.compose_document import (
    MAX_DEPTH,
    BoundsError,
    check_bounds,
    load_document,
)
from hostmanager_server.drivers.compose.files.inputs import find_inputs

BOMB = "x-0: &x0 {a: 1}\n" + "".join(
    f"x-{n}: &x{n} {{<<: [{', '.join([f'*x{n - 1}'] * 9)}]}}\n" for n in range(1, 12)
)
DEEP_ALIASES = "x-0: &x0 {}\n" + "".join(f"x-{n}: &x{n} {{a: *x{n - 1}}}\n" for n in range(1, 600))
PYTHON_LOADER: Any = yaml.SafeLoader


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: {on: yes, 010: 1.0}", {"a": {"on": "yes", "010": "1.0"}}),
        ("since: 2026-13-01", {"since": "2026-13-01"}),
        ("mask: 0b_", {"mask": "0b_"}),
        ("a: ~\nb:\nc: null", {"a": None, "b": None, "c": None}),
        ("a: !reset []\nb: !override {c: d}\ne: !reset null", {"a": [], "b": {"c": "d"}, "e": "null"}),
        ("x: &x {a: b}\ny: {<<: *x, c: d}", {"x": {"a": "b"}, "y": {"a": "b", "c": "d"}}),
        ("a: !!int x\nb: !!timestamp y\nc: !!float 1\nd: !!bool z", {"a": "x", "b": "y", "c": "1", "d": "z"}),
        ("a: !!int [b]", {"a": ["b"]}),
        ("", None),
    ],
)
def test_words_stay_text_and_tags_of_compose_are_ignored(text: str, expected: object) -> None:
    assert load_document(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- " * 100_000, "levels deep"),
        ("[" * 200 + "]" * 200, "levels deep"),
        (DEEP_ALIASES, "levels deep"),
        (BOMB, "values"),
        ("a: &a [*a]", "within the value"),
        ("a: &a {<<: *a}", "within the value"),
    ],
)
def test_a_text_beyond_the_limits_is_refused(text: str, expected: str) -> None:
    with pytest.raises(BoundsError, match=expected):
        check_bounds(yaml.parse(text, Loader=PYTHON_LOADER))  # libyaml has limits, which may come first
    with pytest.raises(yaml.YAMLError):
        load_document(text)


def test_a_text_at_the_limit_is_read() -> None:
    assert load_document("[" * MAX_DEPTH + "]" * MAX_DEPTH)


@pytest.mark.parametrize(
    "text", [b"\xff\xfe\xff", b"a: \xff", "a: !!binary x", "a: !!set [b]", "a: *b", "a: [", "\x07"]
)
def test_invalid_yaml_raises_yaml_error(text: str | bytes) -> None:
    with pytest.raises(yaml.YAMLError):
        load_document(text)


def test_a_hostile_compose_file_does_not_end_the_process(tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    script = f"from {find_inputs.__module__} import find_inputs; find_inputs([{str(file)!r}], environ={{}})"
    for text in ("- " * 100_000, "[" * 900 + "]" * 900, BOMB, "a: &a {<<: *a}"):
        file.write_text(text)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), text[:40]
