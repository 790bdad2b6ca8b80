"""Broken, hostile, huge and missing files: problems, never exceptions."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hostmanager_server.config import file as config_file
from hostmanager_server.config.instance_keys import BACKOFF_KEYS, LOG_KEYS, RESTART_KEYS
from hostmanager_server.config.instances import INSTANCE_KEYS
from hostmanager_server.config.load import (
    HOST_KEYS,
    TOP_KEYS,
    LoadedConfig,
    default_site_file,
    load_all_hosts,
    load_site_config,
)
from hostmanager_server.config.node_reader import MAX_PROBLEMS
from hostmanager_server.config.probes import ALIVE_KEYS, READY_KEYS
from hostmanager_server.core.event_log import Severity
from hostmanager_server.linux.trusted_paths import Trust
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Load = Callable[[str], LoadedConfig]
GOOD = "hosts: {localhost: {agent-instances: []}}\n"

BOMB = "x-0: &x0 [a, a, a, a, a, a, a, a, a, a]\n" + "".join(
    f"x-{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
DEEP_ALIASES = "x-0: &x0 {}\n" + "".join(f"x-{n}: &x{n} {{<<: *x{n - 1}}}\n" for n in range(1, 600))


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("", (0, 0), "is empty"),
        ("# nothing\n", (0, 0), "is empty"),
        ("---\n", (0, 0), "is empty"),
        ("a: 1\n---\nb: 2\n", (2, 1), "second document"),
        ("a:\n\tb: 1\n", (2, 1), "a tab"),
        ("a: 'b\n", (2, 1), "from line 1"),
        ("hosts: {\n  a: ]\n", (2, 6), "is not valid YAML"),
        ("ü: *nothing\n", (1, 4), "alias *nothing"),
        ("a: 1\nb: \x07\n", (2, 4), "U+0007"),
        ("a: !include b.yaml\n", (1, 4), "!include"),
        ("a: !!python/object:os.system {}\n", (1, 4), "tags have no meaning"),
        ("hosts: &a [*a]\n", (1, 12), "within its own value"),
        ("[" * 100_000, (1, 65), "levels deep"),
        ("[" * 80 + "}", (1, 65), "levels deep"),
        ("# ü\r\n" * 200 + "[" * 100_000, (201, 65), "levels deep"),
        ("ü: " + "{ü: " * 100_000, (1, 256), "levels deep"),
        ("- " * 100_000, (1, 129), "levels deep"),
        ("? " * 100_000, (1, 129), "levels deep"),
        ("- " * 63 + "[" * 100_000, (1, 128), "levels deep"),
        (BOMB, (6, 6), "values up to here"),
        (DEEP_ALIASES, (65, 7), "levels deep"),
        ("[]", (1, 1), "must be a mapping"),
        ("hosts: []", (1, 8), "'hosts' must be a mapping"),
        ("hosts: {}", (1, 8), "'hosts' has no entry"),
        ("hub: {}", (1, 1), "has no 'hosts'"),
        ("hosts: {localhost: {}}", (1, 9), "has no 'agent-instances'"),
        ("hosts: {localhost: 3}", (1, 20), "must be a mapping"),
        ("hosts: {localhost: {agent-instances: {}}}", (1, 38), "must be a list"),
        ("hosts: {a: {agent-instances: []}}", (1, 9), "hosts: a"),
        (GOOD + "hosts: {}", (2, 1), "twice (first in line 1)"),
        (GOOD + "? [a]\n: b", (2, 3), "must be a word"),
        (GOOD + "<<: 3", (2, 5), "only a mapping can be merged"),
        ("hosts: {localhost: {agent-instances: [], address: nowhere}}", (1, 51), "must be HOST:PORT"),
    ],
)
def test_a_broken_file_is_one_error_at_its_place(
    load: Load, text: str, place: tuple[int, int], expected: str
) -> None:
    config = load(text)
    found = [p for p in config.problems if p.severity is Severity.ERROR]
    assert config.spec is None
    assert [(p.line, p.column) for p in found] == [place], found
    assert expected in found[0].message
    assert found[0].file == config.file


def test_bytes_that_are_not_utf8_are_an_error_at_their_place(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_bytes(b"\xef\xbb\xbf# \xc3\xbc\na: \xc3\xbc\xff\n")
    [problem] = load_site_config(file).problems
    assert (problem.line, problem.column) == (2, 5)
    assert "UTF-8" in problem.message


def test_a_byte_order_mark_and_other_line_ends_do_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load_site_config(file).ok


@pytest.mark.parametrize("kind", ["absent", "folder", "pipe", "dangling", "nul"])
def test_a_path_that_is_no_file_is_a_problem_and_blocks_nothing(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "site.yaml"
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "dangling":
            path.symlink_to(tmp_path / "gone")
        case "nul":
            path = tmp_path / "a\0b"
    gc.collect()  # closes files of other tests
    descriptors = len(os.listdir("/proc/self/fd"))
    config = load_site_config(path, host="h")
    assert [p.severity for p in config.problems] == [Severity.ERROR]
    assert (config.host, config.spec) == ("h", None)
    assert len(os.listdir("/proc/self/fd")) <= descriptors  # threads of other tests may close some


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    with path.open("wb") as file:
        file.truncate(100 * config_file.MAX_BYTES)
    [problem] = load_site_config(path).problems
    assert "more than 8 MiB" in problem.message


def test_a_file_full_of_errors_gives_a_limited_number_of_problems(load: Load) -> None:
    config = load("".join(f"key{n}: 1\n" for n in range(1000)))
    assert len(config.problems) == MAX_PROBLEMS + 1
    assert config.problems[-1].message == "the file has 801 more problems"
    assert config.problems[-1].severity is Severity.ERROR


# --- writers of the file: tests/linux/test_trusted_paths.py has the other tests

PLAIN = Trust(uid=os.geteuid() or 4711)


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o646, 0o666])
def test_a_file_that_others_may_write_is_a_warning_and_an_error_for_root(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(GOOD)
    path.chmod(mode)
    others = mode & 0o002
    expected = f"others may choose what the daemon runs: '{path}' may be written by others (mode {mode:04o})"

    config = load_site_config(path, trust=PLAIN)
    assert config.ok
    assert [p.severity for p in config.problems] == [Severity.WARNING] * bool(others)
    assert all(expected in p.message for p in config.problems)

    if os.geteuid() != 0:
        return  # root does not own the folders on the path
    config = load_site_config(path, trust=Trust(uid=0))
    assert config.ok is not bool(others)
    if others:
        [problem] = config.problems
        assert problem.severity is Severity.ERROR
        assert problem.message.endswith(f"{expected}; chmod o-w '{path}', or --trust-config")

    config = load_site_config(path, trust=Trust(uid=0, override=True))
    assert config.ok
    assert ["--trust-config allows it" in p.message for p in config.problems] == [True] * bool(others)


# --- the choice of the host


@pytest.mark.parametrize(
    ("asked", "machine", "expected"),
    [
        ("a", "b", "a"),
        (None, "b", "b"),
        (None, "b.example.org", "b"),
        (None, "long.example.org", "long.example.org"),
        (None, "c", "localhost"),
    ],
)
def test_the_host_is_the_named_one_else_this_machine_else_localhost(
    load: Load, monkeypatch: pytest.MonkeyPatch, asked: str | None, machine: str, expected: str
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: machine)
    hosts = ", ".join(
        f"{name}: {{agent-instances: []}}" for name in ("a", "b", "long", "long.example.org", "localhost")
    )
    file = Path(load(f"hosts: {{{hosts}}}").file)
    assert load_site_config(file, host=asked).host == expected
    assert [config.host for config in load_all_hosts(file) if config.local] == [
        expected if asked is None else "b"
    ]


def test_a_named_host_that_the_file_lacks_is_an_error_with_all_hosts(load: Load) -> None:
    file = Path(load("hosts: {daq1: {agent-instances: []}, localhost: {agent-instances: []}}").file)
    (problem,) = load_site_config(file, host="daq2").problems
    expected = "has no host 'daq2' (hosts: daq1, localhost; did you mean 'daq1'?); choose a host with --host"
    assert expected in problem.message


def test_an_error_of_another_host_does_not_affect_this_host(load: Load) -> None:
    config = load("hosts: {localhost: {agent-instances: []}, other: {agent-instances: [3]}}")
    assert config.ok
    assert [c.ok for c in load_all_hosts(Path(config.file))] == [True, False]


def test_the_default_file_is_that_of_ocs() -> None:
    assert default_site_file({"OCS_CONFIG_DIR": "/etc/ocs"}) == Path("/etc/ocs/default.yaml")
    with pytest.raises(ValueError, match="OCS_CONFIG_DIR"):
        default_site_file({})


# --- generated files

WORDS = st.sampled_from(
    sorted(
        {"HostManager", "Agent", "<<", "all", "yes", "1s", "localhost"}
        | {*TOP_KEYS, *HOST_KEYS, *INSTANCE_KEYS, *READY_KEYS, *ALIVE_KEYS, *RESTART_KEYS}
        | {*BACKOFF_KEYS, *LOG_KEYS}
    )
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS
DATA = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=30,
)
ENTRIES = st.dictionaries(WORDS, DATA, max_size=6)
SITES = st.fixed_dictionaries(
    {"hosts": st.just({}) | st.fixed_dictionaries({"localhost": st.fixed_dictionaries(
        {"agent-instances": st.lists(ENTRIES.map(
            lambda entry: {"instance-id": "a", "agent-class": "Agent", **entry}), max_size=4)})})},
    optional={"agent-classes": st.dictionaries(WORDS, ENTRIES, max_size=3), "hub": DATA},
)  # fmt: skip
QUIET = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def check(config: LoadedConfig) -> None:
    assert all(problem.file == config.file and problem.message for problem in config.problems)
    assert config.ok != any(problem.severity is Severity.ERROR for problem in config.problems)


@QUIET
@given(st.text() | st.lists(st.sampled_from("[]{}:,-&*!|>'\"%@#?\n\t ab<"), max_size=40).map("".join))
def test_no_text_raises(load: Load, text: str) -> None:
    if not any("\ud800" <= c <= "\udfff" for c in text):
        check(load(text))


@QUIET
@given(DATA | SITES)
def test_no_data_raises_and_a_good_file_means_the_same_twice(load: Load, data: object) -> None:
    config = load(yaml.safe_dump(data, allow_unicode=True))
    check(config)
    assert (
        load_site_config(Path(config.file), host="localhost", working_dir=Path(config.file).parent) == config
    )
