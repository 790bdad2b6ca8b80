"""The environment of agents, as the agent sees it."""

from __future__ import annotations

import os
import pwd
import signal
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hostmanager_server.core.events import RunKey, Started, StartFailed
from hostmanager_server.core.spec import EnvFile, InstanceSpec
from hostmanager_server.drivers.exec.environment import BASE
from hostmanager_server.drivers.process.records.record import Record
from hostmanager_server.linux.env_file import read_env_file

if TYPE_CHECKING:
    from tests.drivers.conftest import ProcessHarness

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may switch users")
SECRET = "s3cr3t-value"
OWN = {"HOME", "LOGNAME", "SHELL", "USER", "HOSTMANAGER_RUN", "HOSTMANAGER_INSTANCE_ID", "SPT_NOENV"}
OF_SHELL = {"PWD", "OLDPWD", "SHLVL", "_"}


@pytest.fixture(autouse=True)
def environ(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Set the environment of the daemon before the driver starts."""
    for name in ("DAEMON_SECRET", "MY_ONE", "MY_TWO", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, SECRET)
    for name in ("LANG", "LC_TIME", "LANGUAGE", "TZ", "OCS_CONFIG_DIR", "PYTHONUNBUFFERED"):
        monkeypatch.setenv(name, f"the {name}")
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "CREDENTIALS_DIRECTORY", "INVOCATION_ID"):
        monkeypatch.setenv(name, "systemd's")
    if "real" in request.fixturenames:
        real: ProcessHarness = request.getfixturevalue("real")
        real.directory.chmod(0o755)
        real.replace_driver()  # reads the new environment


def changed(spec: InstanceSpec, **changes: object) -> InstanceSpec:
    assert spec.process is not None
    return replace(spec, process=replace(spec.process, **changes))  # type: ignore[arg-type]  # any field


def environment_of(real: ProcessHarness, name: str = "a", **changes: object) -> dict[str, str]:
    """Return the environment of an agent with these spec fields, from env(1)."""
    output = real.run(changed(real.command(name, "env", "-0"), **changes))
    return dict(line.split("=", 1) for line in output.split("\0") if line)


def env_file(real: ProcessHarness, text: str, name: str = "agent.env", owner: str = "") -> EnvFile:
    file = real.directory / name
    file.write_text(text)
    file.chmod(0o600)
    if owner:
        os.chown(file, pwd.getpwnam(owner).pw_uid, -1)
    return EnvFile(str(file), read_env_file(str(file), pwd.getpwnam(owner).pw_uid if owner else None).digest)


@as_root
def test_an_agent_of_another_user_gets_a_listed_environment(real: ProcessHarness) -> None:
    env = environment_of(real, user="nobody")
    listed = {"LANG", "LC_TIME", "LANGUAGE", "TZ", "OCS_CONFIG_DIR", "PYTHONUNBUFFERED", "PATH"}
    others = {name for name in os.environ if name.startswith("LC_") or name in BASE}
    assert set(env) - OF_SHELL == listed | others | OWN
    entry = pwd.getpwnam("nobody")
    assert [env[name] for name in ("HOME", "USER", "LOGNAME", "SHELL")] == [
        entry.pw_dir, "nobody", "nobody", entry.pw_shell,
    ]  # fmt: skip


def test_the_daemon_s_own_user_by_name_gets_the_listed_environment(real: ProcessHarness) -> None:
    env = environment_of(real, user=pwd.getpwuid(os.geteuid()).pw_name)
    assert "DAEMON_SECRET" not in env
    assert env["TZ"] == "the TZ"


def test_an_agent_without_user_inherits_all_but_private_variables(real: ProcessHarness) -> None:
    env = environment_of(real)
    assert env["DAEMON_SECRET"] == SECRET
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "CREDENTIALS_DIRECTORY", "INVOCATION_ID"} & set(env)


@pytest.mark.parametrize("user", ["", pytest.param("nobody", marks=as_root)])
def test_env_inherit_adds_to_the_list_and_replaces_everything_else(real: ProcessHarness, user: str) -> None:
    env = environment_of(real, user=user, env_inherit=("MY_*", "NOTIFY_SOCKET"))
    assert (env["MY_ONE"], env["MY_TWO"], env["TZ"]) == (SECRET, SECRET, "the TZ")
    assert not {"DAEMON_SECRET", "XDG_RUNTIME_DIR", "NOTIFY_SOCKET"} & set(env)
    entry = pwd.getpwnam(user) if user else pwd.getpwuid(os.geteuid())
    assert env["HOME"] == entry.pw_dir
    assert "MY_ONE" not in environment_of(real, "b", user=user, env_inherit=())


@pytest.mark.parametrize("user", ["", pytest.param("nobody", marks=as_root)])
def test_every_agent_keeps_its_environment_in_proc(
    real: ProcessHarness, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    monkeypatch.delenv("SPT_NOENV", raising=False)
    real.replace_driver()
    assert environment_of(real, user=user)["SPT_NOENV"] == "1"
    assert environment_of(real, "b", user=user, env=(("SPT_NOENV", "own"),))["SPT_NOENV"] == "own"
    from_file = environment_of(real, "c", user=user, env_files=(env_file(real, "SPT_NOENV=file\n"),))
    assert from_file["SPT_NOENV"] == "file"
    # Not part of the spec, so neither readers nor a comparison with the config see the variable.
    assert [event.process for event in real.events if isinstance(event, Started)] == [None] * 3


@as_root
def test_the_whole_environment_can_be_passed_to_another_user(real: ProcessHarness) -> None:
    env = environment_of(real, user="nobody", env_inherit=("*",))
    assert env["DAEMON_SECRET"] == SECRET
    assert env["USER"] == "nobody"
    assert "NOTIFY_SOCKET" not in env


@pytest.mark.parametrize("user", ["", pytest.param("nobody", marks=as_root)])
def test_env_overrides_files_and_files_override_inherited_variables(real: ProcessHarness, user: str) -> None:
    first = env_file(real, "TZ=first\nLANG=first\nLC_TIME=first\nTEXT='a\nb'\n", "first.env")
    second = env_file(real, "LANG=second\nLC_TIME=second\n", "second.env")
    env = environment_of(real, user=user, env_files=(first, second), env=(("LC_TIME", "env"),))
    assert [env[name] for name in ("TZ", "LANG", "LC_TIME", "TEXT")] == ["first", "second", "env", "a\nb"]
    assert not [name for name in env if name.startswith("HOSTMANAGER_ENV")]


def test_the_program_is_looked_for_along_the_path_of_the_file(real: ProcessHarness) -> None:
    program = real.directory / "bin" / "own-agent"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho found\n")
    program.chmod(0o755)
    file = env_file(real, f"PATH={program.parent}:{os.environ['PATH']}\n")
    assert real.run(changed(real.command("a", "own-agent"), env_files=(file,))) == "found\n"


@as_root
def test_an_env_file_never_reaches_programs_of_root(real: ProcessHarness) -> None:
    with tempfile.TemporaryDirectory() as folder:
        seen = Path(folder)
        seen.chmod(0o777)
        file = env_file(real, f"LD_DEBUG=libs\nLD_DEBUG_OUTPUT={seen}/by\n", owner="nobody")
        real.run(changed(real.command("a", "true"), user="nobody", env_files=(file,)))
        owners = {entry.stat().st_uid for entry in seen.iterdir()}
    assert owners == {pwd.getpwnam("nobody").pw_uid}  # no process of root loaded the library


@pytest.mark.parametrize("user", ["", pytest.param("nobody", marks=as_root)])
def test_values_of_a_file_are_in_no_record_and_no_command_line(real: ProcessHarness, user: str) -> None:
    file = env_file(real, f"TOKEN={SECRET}\n")
    script = "cat /proc/$$/cmdline; echo; tr '\\0' '\\n' </proc/$$/environ | grep -c TOKEN; exec sleep 1000"
    spec = changed(real.script("a", script), user=user, env_files=(file,))
    real.driver.launch(RunKey("a", 1), spec)
    log = real.directory / "log" / "a.log"
    real.wait_for(lambda: log.exists() and log.read_text().endswith("1\n"))
    assert SECRET not in log.read_text()
    for record in (real.directory / "runs").iterdir():
        data = record.read_bytes()
        assert SECRET.encode() not in data
        assert Record.from_json(data).process == spec.process
    os.kill(real.pid("a"), signal.SIGKILL)


def test_a_file_is_read_at_each_start_and_started_reports_its_digest(real: ProcessHarness) -> None:
    file = env_file(real, "X=old\n")
    spec = changed(real.script("a", "echo $X"), env_files=(file,))
    assert real.run(spec) == "old\n"
    fresh = env_file(real, "X=new\n")
    assert real.run(spec, 2) == "old\nnew\n"
    started = [event.process for event in real.events if isinstance(event, Started)]
    assert started[0] is None
    assert started[1] is not None
    assert started[1].env_files == (fresh,)


def test_an_optional_file_may_appear_later(real: ProcessHarness) -> None:
    file = EnvFile(str(real.directory / "later.env"), optional=True)
    spec = changed(real.script("a", "echo ${X-none}"), env_files=(file,))
    assert real.run(spec) == "none\n"
    env_file(real, "X=there\n", "later.env")
    assert real.run(spec, 2) == "none\nthere\n"


def test_a_file_that_cannot_be_used_fails_the_start_without_its_text(real: ProcessHarness) -> None:
    file = env_file(real, "X=1\n")
    Path(file.path).write_text(SECRET)
    real.driver.launch(RunKey("a", 1), changed(real.command("a", "true"), env_files=(file,)))
    failed = real.events[-1]
    assert isinstance(failed, StartFailed)
    assert failed.why.startswith(f"cannot start 'a': cannot use env-file '{file.path}': line 1")
    assert SECRET not in failed.why


def test_a_record_of_a_daemon_without_env_files_is_read(real: ProcessHarness) -> None:
    real.driver.launch(RunKey("a", 1), real.command("a", "sleep", "1000"))
    (name,) = real.records()
    data = (real.directory / "runs" / name).read_text()
    old = data.replace('"env_files": [], "env_inherit": null', '"x": 0')
    assert old != data
    assert Record.from_json(old.encode()).process == Record.from_json(data.encode()).process
    os.kill(real.pid("a"), signal.SIGKILL)
