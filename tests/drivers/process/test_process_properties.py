"""Umask, nice value, group and users without an entry, on the direct path and through the gate."""

from __future__ import annotations

import errno
import grp
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hostmanager_server.core.events import Adopted, RunKey, StartFailed
from hostmanager_server.core.spec import CommandProbe, InstanceSpec, ReadinessProbe
from hostmanager_server.drivers.exec import agent_user, direct
from hostmanager_server.linux.spawning import Spawner, SpawnError, Step

from tests.drivers.conftest import ProcessHarness
from tests.fakes.driver import Behaviour

A = RunKey("a", 1)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may switch users and groups")


@pytest.fixture(params=["direct", "gate"])
def either(
    request: pytest.FixtureRequest, real: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> ProcessHarness:
    """Return a harness whose driver starts agents directly, and one whose driver uses the gate."""
    if request.param == "gate":
        monkeypatch.setattr(direct, "load_spawner", lambda: None)
        real.replace_driver()
    real.directory.chmod(0o755)
    return real


def with_keys(spec: InstanceSpec, **keys: object) -> InstanceSpec:
    assert spec.process is not None
    return replace(spec, process=replace(spec.process, **keys))  # type: ignore[arg-type]  # any field


def free_number() -> int:
    """Return a number without a user and a group."""
    return next(n for n in range(60_001, 65_000) if not agent_user.find_user(str(n)).known and no_group(n))


def no_group(number: int) -> bool:
    return all(entry.gr_gid != number for entry in grp.getgrall())


def test_umask_and_nice_are_those_of_the_spec(either: ProcessHarness) -> None:
    spec = either.script("a", "umask; nice; pwd")
    output = either.run(with_keys(spec, umask=0o027, nice=7, working_dir="/usr")).split()
    assert output == ["0027", "7", "/usr"]


def test_without_the_keys_umask_and_nice_are_the_daemon_s(either: ProcessHarness) -> None:
    own = os.umask(0o022)
    os.umask(own)
    output = either.run(either.script("a", "umask; nice")).split()
    assert output == [f"{own:04o}", str(os.nice(0))]


@as_root
def test_umask_and_nice_reach_an_agent_of_another_user(either: ProcessHarness) -> None:
    spec = with_keys(either.script("a", "umask; nice; id -u"), umask=0o077, nice=-5, user="nobody")
    assert either.run(spec).split() == ["0077", "-5", str(agent_user.find_user("nobody").uid)]


@as_root
def test_a_group_takes_the_place_of_the_user_s(either: ProcessHarness) -> None:
    output = either.run(with_keys(either.script("a", "id -u; id -g"), user="nobody", group="daemon"))
    assert output.split() == [str(agent_user.find_user("nobody").uid), str(agent_user.find_group("daemon"))]


@as_root
def test_a_group_alone_leaves_the_user(either: ProcessHarness) -> None:
    output = either.run(with_keys(either.script("a", "id -u; id -g; echo $HOME"), group="daemon"))
    assert output.split()[:2] == ["0", str(agent_user.find_group("daemon"))]


@as_root
def test_a_number_needs_no_entry(either: ProcessHarness) -> None:
    number = free_number()
    script = either.script("a", "id -u; id -g; id -G; echo $HOME $USER $LOGNAME $SHELL")
    output = either.run(with_keys(script, user=str(number))).split()
    assert output == [str(number)] * 3 + ["/", str(number), str(number), "/bin/sh"]


@as_root
def test_a_number_without_entry_runs_with_the_named_group_only(either: ProcessHarness) -> None:
    number = free_number()
    output = either.run(with_keys(either.script("a", "id -u; id -G"), user=str(number), group="4242"))
    assert output.split() == [str(number), "4242"]


@as_root
def test_a_number_without_entry_never_gets_the_group_of_others(
    either: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = free_number()

    class Group:
        gr_name = "operators"

    monkeypatch.setattr(grp, "getgrgid", lambda gid: Group)
    why = why_failed(either, with_keys(either.command("a", "true"), user=str(number)))
    assert f"group {number} is 'operators', of other users; set 'group'" in why


def why_failed(real: ProcessHarness, spec: InstanceSpec) -> str:
    real.driver.launch(A, spec)
    [failed] = real.events
    assert isinstance(failed, StartFailed)
    assert real.records() == []
    return failed.why


def test_an_unknown_group_fails_the_start(either: ProcessHarness) -> None:
    why = why_failed(either, with_keys(either.command("a", "true"), group="no-such-group"))
    assert "there is no group 'no-such-group' on this host" in why


def test_a_refused_nice_value_fails_the_start(
    either: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def refuse_in_child(*_: object) -> None:
        raise SpawnError(errno.EACCES, Step.NICE)

    monkeypatch.setattr(os, "setpriority", refuse)  # root may set any value
    monkeypatch.setattr(Spawner, "spawn", refuse_in_child)
    why = why_failed(either, with_keys(either.command("a", "true"), nice=-5))
    assert why == (
        "cannot start 'a': cannot set its nice value to -5: Permission denied; only root, or a limit 'nice', "
        "allows a value below the daemon's; raise 'nice'"
    )


def test_a_readiness_command_runs_like_the_agent(either: ProcessHarness) -> None:
    seen = either.directory / "seen"
    # Behind a gate, the command may begin before it has its nice value.
    script = f'until [ "$(nice)" = 3 ]; do sleep 0.01; done; umask > {seen}; nice >> {seen}'
    command = CommandProbe(("/bin/sh", "-c", script))
    spec = with_keys(either.script("a", "sleep 1000"), umask=0o037, nice=3)
    either.driver.launch(A, replace(spec, ready=ReadinessProbe(command, 0.05)))
    either.wait_for(lambda: seen.exists() and seen.read_text().split() == ["0037", "3"])


@as_root
def test_the_next_daemon_knows_the_keys_of_a_run(either: ProcessHarness) -> None:
    spec = with_keys(either.spec("a", Behaviour()), umask=0o027, nice=4, group="daemon")
    either.driver.launch(A, spec)
    either.settle("a")
    either.replace_driver()
    [adopted] = either.driver.adopt({"a": spec})
    assert isinstance(adopted, Adopted)
    assert adopted.process == spec.process
    assert Path(f"/proc/{either.pid('a')}/status").read_text().find("Umask:\t0027") > 0
