"""Rights that a unit takes away, and secrets that stay out of the unit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import Result

from tests.systemd.test_install import GOOD, install, settings

SECRET = "s3cr3t-value"
# Each of these breaks some agents without any message; docs/how-to/systemd.md gives the reasons.
NOT_BY_DEFAULT = (
    "MemoryDenyWriteExecute", "NoNewPrivileges", "PrivateDevices", "PrivateMounts", "PrivateNetwork",
    "PrivateTmp", "PrivateUsers", "ProcSubset", "ProtectClock", "ProtectControlGroups", "ProtectHome",
    "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables",
    "ProtectProc", "ProtectSystem", "RemoveIPC", "RestrictAddressFamilies", "RestrictNamespaces",
    "RestrictRealtime", "RestrictSUIDSGID", "UMask",
)  # fmt: skip
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "systemd.md").read_text(encoding="utf-8")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    file = tmp_path / "site.yaml"
    file.write_text(GOOD)
    file.chmod(0o600)
    return file


def unit(site: Path, *options: str | Path) -> str:
    result = install(site, "--host", "lab1", "--working-dir", "/", "--print", *options)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(site: Path, *options: str, **environ: str) -> Result:
    result = install(site, "--host", "lab1", "--print", *options, **environ)
    assert result.exit_code != 0
    assert "[Service]" not in result.stdout
    return result


def analyze() -> str:
    program = shutil.which("systemd-analyze")
    if program is not None:
        return program
    reason = "no systemd-analyze; run scripts/setup-systemd as root, or install the package systemd"
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have what this test needs: {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.mark.parametrize(
    ("options", "most"),
    [([], 8.5), (["--as-user", "daemon"], 9.1), (["--as-user", "daemon", "--hardened"], 2.7)],
)
def test_systemd_rates_the_exposure_of_the_unit_at_most_as_given(
    site: Path, tmp_path: Path, options: list[str], most: float
) -> None:
    program = analyze()
    name = "hostmanager-under-test"
    install(site, "--host", "lab1", "--unit-name", name, "--unit-dir", tmp_path / "units", *options)
    file = tmp_path / "units" / f"{name}.service"
    words = [program, "security", "--offline=true", "--no-pager", str(file)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    found = re.search(r"Overall exposure level .*?: ([0-9.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) <= most
    verified = subprocess.run(
        [program, "--system", "--man=no", "verify", str(file)], capture_output=True, text=True, check=False
    )
    assert [line for line in verified.stderr.splitlines() if name in line] == []


@pytest.mark.parametrize("options", [[], ["--as-user", "daemon"]])
def test_the_default_unit_has_no_directive_that_may_break_agents(site: Path, options: list[str]) -> None:
    text = unit(site, *options)
    assert [name for name in NOT_BY_DEFAULT if settings(text, name)] == []
    assert settings(text, "CapabilityBoundingSet")[0].startswith("~CAP_")


def test_a_daemon_of_a_user_may_use_sudo_unless_hardened(site: Path) -> None:
    # With any of these, systemd adds NoNewPrivileges to a unit with `User=`.
    implying = ("SystemCallFilter", "SystemCallArchitectures", "LockPersonality", "RestrictNamespaces")
    ordinary = unit(site, "--as-user", "daemon")
    assert [name for name in implying if settings(ordinary, name)] == []
    assert settings(unit(site, "--as-user", "daemon", "--hardened"), "NoNewPrivileges") == ["yes"]


def test_a_hardened_unit_leaves_the_daemon_its_cgroup_and_agents_their_devices(site: Path) -> None:
    text = unit(site, "--as-user", "daemon", "--hardened")
    assert settings(text, "Delegate") == ["yes"]
    for name in ("ProtectControlGroups", "PrivateDevices", "ProtectClock", "DeviceAllow", "ProcSubset"):
        assert settings(text, name) == []


def test_folders_that_agents_write_to_are_writable_in_a_hardened_unit(site: Path, tmp_path: Path) -> None:
    (tmp_path / "data 50%").mkdir()
    site.write_text(
        f"hosts:\n  lab1:\n    log-dir: {tmp_path}\n    address: unix:/run/own/hm.sock\n"
        "    agent-instances:\n"
        "    - {agent-class: A, instance-id: a, command: [sleep, '9'], working-dir: /srv/lab}\n"
    )
    options: list[str | Path] = ["--as-user", "daemon", "--hardened", "--writable", tmp_path / "data 50%"]
    options += ["--state-dir", "/srv/state", "--working-dir", "/", "--print"]
    result = install(site, "--host", "lab1", *options)
    assert settings(result.stdout, "ReadWritePaths") == [
        f'"-{tmp_path}/data 50%%" -/srv/state -/run/own -{tmp_path} -/srv/lab -/tmp -/var/tmp'
    ]
    assert "/srv/lab does not exist" in result.stderr
    assert f"{tmp_path} does not" not in result.stderr


def test_a_hardened_unit_of_a_user_has_only_directives_for_user_managers(site: Path) -> None:
    text = unit(site, "--user-unit", "--hardened")
    assert settings(text, "NoNewPrivileges") == ["yes"]
    assert settings(text, "SystemCallFilter")[0] == "@system-service"
    for name in ("CapabilityBoundingSet", "ProtectSystem", "ReadWritePaths", "PrivateMounts", "KeyringMode"):
        assert settings(text, name) == []


@pytest.mark.parametrize("options", [["--hardened"], ["--hardened", "--as-user", "root"]])
def test_a_daemon_of_root_is_not_hardened(site: Path, options: list[str]) -> None:
    assert "cannot harden a daemon of root" in refused(site, *options).stderr


def test_writable_folders_are_refused_without_hardening(site: Path) -> None:
    assert "--writable without --hardened" in refused(site, "--writable", "/data").stderr


def test_the_page_explains_every_directive(site: Path) -> None:
    names: set[str] = {*NOT_BY_DEFAULT}
    for options in ([], ["--as-user", "daemon", "--hardened"]):
        lines = unit(site, *options).partition("[Service]\n")[2].partition("\n[")[0].splitlines()
        names |= {line.partition("=")[0] for line in lines}
    names -= {"ExecStart", "User", "RuntimeDirectoryMode", "StateDirectoryMode"}
    assert [name for name in sorted(names) if f"`{name}=" not in PAGE] == []


# --- secrets


@pytest.mark.parametrize(
    "given", [f"DB_PASSWORD={SECRET}", "DB_PASSWORD", f"API_KEY={SECRET}", f"DB=x://a:{SECRET}@b"]
)
def test_a_secret_is_not_put_into_the_unit(site: Path, given: str) -> None:
    result = refused(site, "--env", given, DB_PASSWORD=SECRET)
    assert "--env-file" in result.stderr
    assert SECRET not in result.output


def test_a_file_of_variables_is_named_in_the_unit_and_not_copied(site: Path, tmp_path: Path) -> None:
    file = tmp_path / "the 50% secrets.env"
    file.write_text(f"DB_PASSWORD={SECRET}\n")
    file.chmod(0o600)
    text = unit(site, "--env-file", file, "--env-file", "-/etc/no-such.env")
    shown = str(file).replace("%", "%%")
    assert settings(text, "EnvironmentFile") == [shown, "-/etc/no-such.env"]
    assert SECRET not in text
    file.chmod(0o644)
    result = install(site, "--host", "lab1", "--print", "--env-file", file)
    assert result.exit_code == 0
    assert "every user of this machine may read the file" in result.stderr


def test_a_file_of_variables_must_exist_and_be_valid_and_belong_to_root(site: Path, tmp_path: Path) -> None:
    assert "No such file" in refused(site, "--env-file", str(tmp_path / "none.env")).stderr
    file = tmp_path / "a.env"
    file.write_text(f"{SECRET}\n")
    file.chmod(0o600)
    result = refused(site, "--env-file", str(file))
    assert f"'{file}': line 1 has no '='" in result.stderr
    assert SECRET not in result.output
    file.write_text("A=1\n")
    starred = tmp_path / "*.env"
    starred.write_text("A=1\n")
    starred.chmod(0o600)
    assert "rename the file" in refused(site, "--env-file", str(starred)).stderr
    if os.geteuid() == 0:
        file.chmod(0o606)
        assert (
            "every user of this machine may write the file" in refused(site, "--env-file", str(file)).stderr
        )
        file.chmod(0o600)
        os.chown(file, 2, 0)
        assert "owns" in refused(site, "--env-file", str(file)).stderr


def test_differences_are_shown_without_secrets(site: Path, tmp_path: Path) -> None:
    units = tmp_path / "units"
    assert install(site, "--host", "lab1", "--unit-dir", units).exit_code == 0
    file = units / "hostmanager.service"
    file.write_text(file.read_text().replace("KillMode", f'Environment="TOKEN={SECRET} x"\nKillMode'))
    result = install(site, "--host", "lab1", "--unit-dir", units)
    assert result.exit_code == 1
    assert "-Environment=TOKEN=***" in result.stderr
    assert SECRET not in result.output


# --- the file


def test_the_unit_is_never_written_through_a_link(site: Path, tmp_path: Path) -> None:
    units = tmp_path / "units"
    units.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    file = units / "hostmanager.service"
    file.symlink_to(victim)
    result = install(site, "--host", "lab1", "--unit-dir", units, "--force")
    assert result.exit_code == 1
    assert f"is a link to {victim}" in result.stderr
    file.unlink()
    file.symlink_to(os.devnull)
    masked = install(site, "--host", "lab1", "--unit-dir", units, "--force")
    assert "systemctl unmask hostmanager" in masked.stderr
    assert (victim.read_text(), file.readlink()) == ("mine", Path(os.devnull))
    file.unlink()
    for name in (f".hostmanager.service.{os.getpid()}", ".hostmanager.service"):
        (units / name).symlink_to(victim)
    assert install(site, "--host", "lab1", "--unit-dir", units).exit_code == 0
    assert victim.read_text() == "mine"
    file.unlink()
    file.mkdir()
    assert "is no file" in install(site, "--host", "lab1", "--unit-dir", units, "--force").stderr


def test_the_mode_of_the_unit_ignores_the_umask_and_is_corrected(site: Path, tmp_path: Path) -> None:
    units = tmp_path / "units"
    file = units / "hostmanager.service"
    before = os.umask(0)
    try:
        assert install(site, "--host", "lab1", "--unit-dir", units).exit_code == 0
        assert file.stat().st_mode & 0o7777 == 0o644
        file.chmod(0o666)
        assert "is written" in install(site, "--host", "lab1", "--unit-dir", units).stdout
        assert file.stat().st_mode & 0o7777 == 0o644
    finally:
        os.umask(before)
