"""`env-file`, `env-inherit` and secrets in the site config."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest
from hostmanager_server.config.load import LoadedConfig, load_all_hosts, load_site_config
from hostmanager_server.config.secrets import masked
from hostmanager_server.core.secret_names import MASK, is_secret_name
from hostmanager_server.core.spec import EnvFile, ProcessSpec
from hostmanager_server.linux.env_file import digest_of

Load = Callable[[str], LoadedConfig]
Instances = Callable[..., LoadedConfig]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has files of others")
SECRET = "s3cr3t-value"


def process(config: LoadedConfig, index: int = 0) -> ProcessSpec:
    assert config.spec is not None, config.problems
    found = config.spec.instances[index].process
    assert found is not None
    return found


def write(file: Path, text: str, mode: int = 0o600) -> Path:
    file.write_text(text)
    file.chmod(mode)
    return file


def test_a_class_s_files_come_before_those_of_its_instance(load: Load, tmp_path: Path) -> None:
    (tmp_path / "env").mkdir()
    for name in ("class", "a", "b"):
        write(tmp_path / "env" / name, f"X={name}\n")
    config = load(
        "agent-classes: {A: {command: [a], env-file: env/class}}\nhosts: {localhost: {agent-instances: [\n"
        f"{{agent-class: A, instance-id: a, env-file: [env/a, {tmp_path}/env/b]}},\n"
        "{agent-class: A, instance-id: b}]}}"
    )
    assert config.problems == ()
    files = [EnvFile(f"{tmp_path}/env/{name}", digest_of({"X": name})) for name in ("class", "a", "b")]
    assert process(config).env_files == tuple(files)
    assert process(config, 1).env_files == (files[0],)


def test_a_relative_path_is_relative_to_the_site_config(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    write(folder / "my.env", "X=1\n")
    text = "agent-instances: [{agent-class: A, instance-id: a, command: [a], env-file: my.env}]"
    site = write(folder / "site.yaml", f"hosts: {{localhost: {{{text}}}}}")
    config = load_site_config(site, host="localhost", working_dir=tmp_path)
    assert process(config).env_files == (EnvFile(f"{folder}/my.env", digest_of({"X": "1"})),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, "cannot read env-file"), (f"A=1\n{SECRET}\n", "line 2 has no '='")],
)
def test_a_file_that_cannot_be_used_is_a_warning_at_its_place(
    instances: Instances, tmp_path: Path, text: str | None, expected: str
) -> None:
    if text is not None:
        write(tmp_path / "a.env", text)
    config = instances("instance-id: a, env-file: a.env", "instance-id: b")
    (problem,) = config.problems
    assert (problem.line, problem.column) == (5, 54)
    assert problem.message.startswith("instance 'a' cannot start: cannot")
    assert expected in problem.message
    assert SECRET not in str(problem)
    assert process(config).env_files == (EnvFile(f"{tmp_path}/a.env"),)


def test_a_file_behind_a_dash_may_be_missing(instances: Instances, tmp_path: Path) -> None:
    config = instances("instance-id: a, env-file: -a.env")
    assert config.problems == ()
    assert process(config).env_files == (EnvFile(f"{tmp_path}/a.env", digest_of({}), optional=True),)
    write(tmp_path / "a.env", SECRET)
    assert "no '='" in instances("instance-id: a, env-file: -a.env").problems[0].message


def test_env_files_of_another_host_are_not_read(tmp_path: Path) -> None:
    text = "agent-instances: [{agent-class: A, instance-id: a, command: [a], env-file: /no/such}]"
    site = write(tmp_path / "site.yaml", f"hosts: {{elsewhere: {{{text}}}}}")
    (config,) = load_all_hosts(site)
    assert config.problems == ()
    assert process(config).env_files == (EnvFile("/no/such"),)


def test_access_of_other_users_to_an_env_file_is_a_warning(instances: Instances, tmp_path: Path) -> None:
    write(tmp_path / "a.env", "X=1\n", 0o644)
    config = instances("instance-id: a, env-file: a.env", "instance-id: b, env-file: a.env")
    assert [p.line for p in config.problems] == [5, 6]
    assert "every user of this machine may read the file" in config.problems[0].message


@as_root
def test_a_file_may_belong_to_the_user_of_its_agent(instances: Instances, tmp_path: Path) -> None:
    os.chown(write(tmp_path / "a.env", "X=1\n"), pwd.getpwnam("nobody").pw_uid, 0)
    config = instances("instance-id: a, user: nobody, env-file: a.env", "instance-id: b, env-file: a.env")
    (problem,) = config.problems
    assert problem.line == 6
    assert "user 'nobody' owns" in problem.message


@pytest.mark.parametrize(
    ("value", "patterns"),
    [
        ("all", ("*",)),
        ("[MY_*, TZ]", ("MY_*", "TZ")),
        ("MY_*", ("MY_*",)),
        ("[]", ()),
        ("['[AB]_?']", ("[AB]_?",)),
    ],
)
def test_env_inherit_is_names_and_patterns(
    instances: Instances, value: str, patterns: tuple[str, ...]
) -> None:
    config = instances(f"instance-id: a, env-inherit: {value}", "instance-id: b")
    assert config.problems == ()
    assert process(config).env_inherit == patterns
    assert process(config, 1).env_inherit is None


def test_env_inherit_of_the_instance_overrides_the_class_and_the_class_overrides_the_host(load: Load) -> None:
    config = load(
        "agent-classes: {A: {command: [a], env-inherit: [A]}, B: {command: [b]}}\n"
        "hosts: {localhost: {env-inherit: [H], agent-instances: [\n"
        "{agent-class: A, instance-id: a, env-inherit: []}, {agent-class: A, instance-id: b},\n"
        "{agent-class: B, instance-id: c}]}}"
    )
    assert config.problems == ()
    assert [process(config, at).env_inherit for at in range(3)] == [(), ("A",), ("H",)]


@pytest.mark.parametrize(
    ("entry", "column", "expected"),
    [
        ("env-inherit: [all]", 58, "'all' in 'env-inherit' of instance 'a' stands alone"),
        (f"env-inherit: [X={SECRET}]", 58, "put 'X' and its value into 'env'"),
        ("env-inherit: ['two words']", 58, "is no name or pattern"),
        ("env-inherit: [[A]]", 58, "must be a text"),
        ("env-inherit: {A: b}", 57, "must be a list"),
        ("env-inherit: ''", 57, "is no name or pattern"),
        ("env-file: ''", 54, "must be a path"),
        ("env-file: {a: b}", 54, "must be a text"),
        ("env-file: [[a]]", 55, "must be a text"),
        ("env-file: ~no-such-user/x", 54, "cannot be found"),
    ],
)
def test_a_wrong_value_is_an_error_at_its_place(
    instances: Instances, errors: Callable[[LoadedConfig], list[tuple[int, int, str]]],
    entry: str, column: int, expected: str,
) -> None:  # fmt: skip
    ((line, at, message),) = errors(instances(f"instance-id: a, {entry}"))
    assert (line, at) == (5, column)
    assert expected in message
    assert SECRET not in message


def test_a_variable_that_no_agent_gets_is_a_warning(instances: Instances) -> None:
    (problem,) = instances("instance-id: a, env-inherit: [NOTIFY_SOCKET]").problems
    assert "'NOTIFY_SOCKET'" in problem.message


def test_a_compose_service_takes_neither_key(instances: Instances) -> None:
    config = instances("instance-id: a, manage: docker, env-file: x, env-inherit: all")
    assert [p.message.partition(" of ")[0] for p in config.problems] == ["'env-file'", "'env-inherit'"]


@pytest.mark.parametrize(
    "name",
    [
        "DB_PASSWORD",
        "token",
        "apiKey",
        "API_KEY",
        "APIKEY",
        "SECRET",
        "MYSQL_PWD",
        "DB_PASS",
        "aws-secret-key",
    ],
)
def test_names_of_secrets_are_known(name: str) -> None:
    assert is_secret_name(name)
    assert masked({name: SECRET, "TZ": "UTC"}) == {name: MASK, "TZ": "UTC"}


@pytest.mark.parametrize(
    "name", ["TZ", "PWD", "KEYBOARD", "XKB_KEYMAP", "TOKEN_FILE", "COMPASS", "SSH_KEY_PATH"]
)
def test_other_names_are_not_names_of_secrets(name: str) -> None:
    assert not is_secret_name(name)


SITE = f"""\
agent-classes:
  A:
    command: [a]
    env: {{API_TOKEN: {SECRET}, TZ: UTC}}
hosts:
  localhost:
    agent-instances:
    - agent-class: A
      instance-id: one
      arguments: [--port, '3', --password, {SECRET}]
      env:
        DB: "postgres://me:{SECRET}@db/x"
        TOKEN_FILE: /run/token
"""


def test_secrets_in_a_file_that_all_users_may_read_are_warnings_at_their_place(tmp_path: Path) -> None:
    site = write(tmp_path / "site.yaml", SITE, 0o644)
    config = load_site_config(site, host="localhost")
    assert [(p.line, p.column, p.message.split(" looks")[0]) for p in config.problems] == [
        (4, 22, "'agent-classes.A.env.API_TOKEN'"),
        (10, 44, "'hosts.localhost.agent-instances[one].arguments --password'"),
        (12, 13, "'hosts.localhost.agent-instances[one].env.DB'"),
    ]
    assert SECRET not in "".join(map(str, config.problems))
    assert config.ok
    site.chmod(0o640)
    assert load_site_config(site, host="localhost").problems == ()
