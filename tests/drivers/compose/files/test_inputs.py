"""Tests of the search for the input files of a project."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostmanager_server.drivers.compose.files.inputs import find_inputs, input_files, interpolate
from hypothesis import given
from hypothesis import strategies as st


def names(folder: Path, *files: str, **environ: str) -> set[str]:
    paths = input_files([str(folder / file) for file in files], environ=environ)
    return {str(path.relative_to(folder)) for path in paths}


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        file = folder / name.replace("__", "/").replace("_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def test_includes_extends_and_env_files_are_found_in_all_their_spellings(tmp_path: Path) -> None:
    write(
        tmp_path,
        compose_yaml="""
include:
- inc.yaml
- path: [sub/one.yaml, sub/two.yaml]
  env_file: sub/own.env
services:
  a: {image: x, env_file: a.env}
  b: {image: x, env_file: [b.env, {path: c.env, required: false}]}
  c: {extends: {file: base.yaml, service: d}}
  e: {extends: a}
""",
        inc_yaml="services: {x: {image: x, env_file: inc.env}}",
        sub__one_yaml="services: {y: {image: x, env_file: y.env}}",
        base_yaml="services: {d: {image: x, env_file: d.env}}",
    )
    assert names(tmp_path, "compose.yaml") == {
        "compose.yaml", ".env", "inc.yaml", "inc.env", "sub/one.yaml", "sub/two.yaml", "sub/own.env",
        "sub/y.env", "a.env", "b.env", "c.env", "base.yaml", "d.env",
    }  # fmt: skip
    found = find_inputs([str(tmp_path / "compose.yaml")], environ={})
    assert {"a", "b", "d", "e"} <= found.with_env_file


def test_files_that_include_each_other_are_read_once(tmp_path: Path) -> None:
    write(tmp_path, a_yaml="include: [b.yaml]", b_yaml="include: [a.yaml]")
    assert names(tmp_path, "a.yaml") == {"a.yaml", "b.yaml", ".env"}


def test_paths_may_have_variables(tmp_path: Path) -> None:
    write(tmp_path, compose_yaml="include: ['${WHERE:-none}.yaml', '$$x.yaml']", _env="WHERE=file\n")
    assert "file.yaml" in names(tmp_path, "compose.yaml")
    assert {"env.yaml", "$x.yaml"} <= names(tmp_path, "compose.yaml", WHERE="env")


@pytest.mark.parametrize(
    "text", ["", "[", "- a", "services: 3", "include: {path: {a: b}}", "services: {a: 7}", "\0"]
)
def test_an_unreadable_file_is_still_an_input(tmp_path: Path, text: str) -> None:
    write(tmp_path, compose_yaml=text)
    assert names(tmp_path, "compose.yaml", "gone.yaml") == {"compose.yaml", "gone.yaml", ".env"}


def test_inputs_behind_compose_tags_are_found(tmp_path: Path) -> None:
    write(tmp_path, compose_yaml="services: {a: {image: x, ports: !reset [], env_file: !override [o.env]}}")
    assert "o.env" in names(tmp_path, "compose.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$A-${A}", "1-1"), ("${B}", ""), ("${B:-x}", "x"), ("${E-x}", ""), ("${E:-x}", "x"),
        ("${A:+y}", "y"), ("${B:+y}", ""), ("$$A", "$A"), ("100%", "100%"), ("$", "$"),
    ],
)  # fmt: skip
def test_variables_are_replaced_as_compose_does(text: str, expected: str) -> None:
    assert interpolate(text, {"A": "1", "E": ""}) == expected


@given(st.text(alphabet=st.characters(exclude_characters="$"), max_size=40))
def test_a_text_without_variables_stays_as_it_is(text: str) -> None:
    assert interpolate(text, {}) == text
