"""Runs of the tutorials and the Python samples against a real daemon."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from hostmanager.v1 import host_manager_pb2 as pb

from tests.docker_engine import MakeProject
from tests.e2e.daemon import COMMAND, PATIENCE, Site
from tests.repo.pages import ROOT, Example, blocks, command_lines, examples
from tests.waiting import wait_until

TUTORIALS = ROOT / "docs" / "tutorial"
SAMPLES = [sample for sample in examples("python") if "hostmanager_client" in sample.text]
INSTANCES = ("thermo1", "data1", "heater")  # the names in the samples


def save_files(page: Path, folder: Path, *, image: str = "") -> None:
    """Write the files of a page.

    The first line of such a block is a comment with the file name.
    """
    for block in blocks(page):
        if block.language in ("python", "yaml"):
            first = block.text.partition("\n")[0]
            (folder / first.removeprefix("# ")).write_text(
                block.text.replace("busybox:1", image or "busybox:1")
            )


def environment(site: Site) -> Mapping[str, str]:
    path = f"{COMMAND.parent}:{os.environ['PATH']}"
    return {**site.environ, "HOSTMANAGER_ADDRESS": f"unix:{site.socket}", "PATH": path}


def run(site: Site, command_line: str) -> str:
    """Run a command line of a page and return its output. The command must succeed."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command_line],
        cwd=site.folder, env=environment(site), timeout=2 * PATIENCE,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command_line}:\n{done.stdout}{done.stderr}"
    return done.stdout


def follow(site: Site, page: Path, once_started: Callable[[], object] = lambda: None) -> dict[str, str]:
    """Run the commands of a page, the daemon included, and return the outputs."""
    outputs = {}
    for block in blocks(page):
        for line in command_lines(block) if block.language in ("", "console") else ():
            if line.startswith("hostmanager serve site.yaml"):
                site.start()
                once_started()
            elif block.language == "console":
                outputs[line] = run(site, line)
    return outputs


def test_the_first_site_works_as_the_tutorial_says(site: Site) -> None:
    outputs = follow(site, TUTORIALS / "first-site.md")
    assert "heater" in outputs["hostmanager status"]
    assert " K\n" in outputs["hostmanager logs thermo1 -n 5"]
    events = outputs["hostmanager events thermo1"]
    assert "SIGKILL" in events
    daemon = site.daemons[-1]
    assert daemon.process.wait(PATIENCE) == 0  # die
    assert site.processes() == []


def test_the_first_compose_service_works_as_the_tutorial_says(
    site: Site, image: str, compose_project: MakeProject
) -> None:
    page = TUTORIALS / "first-compose-service.md"
    save_files(TUTORIALS / "first-site.md", site.folder)
    save_files(page, site.folder, image=image)
    project = compose_project((site.folder / "compose.yaml").read_text())
    (site.folder / "site.yaml").write_text(
        (site.folder / "site.yaml").read_text().replace("compose.yaml", str(project.file))
    )
    outputs = follow(site, page)
    assert "Clock[d]" in outputs["hostmanager status"]
    assert "[docker]" in outputs["hostmanager status"]
    assert "ocs-clock" in outputs["hostmanager show clock"]


def test_the_first_upgrade_works_as_the_tutorial_says(site: Site) -> None:
    save_files(TUTORIALS / "first-site.md", site.folder)
    daemon = site.start()
    before = daemon.wait_for("thermo1", pb.NEXT_ACTION_UP)
    outputs = follow(site, TUTORIALS / "first-upgrade.md")
    assert "Upgraded" in outputs["hostmanager events -n 5"]
    after = daemon.wait_for("thermo1", pb.NEXT_ACTION_UP)
    assert (daemon.process.poll(), after.process.pid) == (None, before.process.pid)


def test_why_explains_a_crash_loop_and_remembers_it_over_a_kill_and_an_upgrade(site: Site) -> None:
    page = ROOT / "docs" / "how-to" / "why.md"
    save_files(page, site.folder)

    def fails() -> bool:
        return site.daemons[-1].instance("heater").consecutive_failures > 1

    outputs = follow(site, page, lambda: len(site.daemons) > 1 or wait_until(fails, "two failures"))
    story = outputs["hostmanager why || test $? = 1"]
    assert "heater: " in story
    assert 'Heater:heater ended with code 3: "cannot open the sensor"' in story
    assert "needed by  camera" in story
    assert "waits for  heater" in story
    assert "`hostmanager logs heater -n 50` shows what it wrote" in story
    shown = outputs["hostmanager show camera"]
    assert "target:" in shown
    assert '(hostmanager down): "lens cap on"' in shown
    lines = outputs[
        next(line for line in outputs if line.startswith("hostmanager events --since"))
    ].splitlines()
    reasons = [line.split()[5].removesuffix(":") for line in lines]
    assert reasons.count("DaemonStarted") == 2
    first, second = (n for n, reason in enumerate(reasons) if reason == "DaemonStarted")
    assert reasons[first + 1 : first + 3] == ["Exited", "Exited"], "from before the kill"
    assert '"lens cap on"' in next(line for line in lines[first:second] if "Update:" in line)
    assert '(hostmanager upgrade): "new release"' in lines[-1]
    log = outputs["hostmanager logs --daemon -n 100"]
    assert log.count("DaemonStarted") == 2
    assert log.count(" upgrading to version ") == 1
    assert log.count("Upgraded") == 1


def shape(text: str) -> set[str]:
    """Return the lines without their numbers."""
    return {re.sub(r"\d+", "N", line) for line in text.splitlines()}


def test_logs_are_read_as_the_page_says(site: Site) -> None:
    page = ROOT / "docs" / "how-to" / "read-logs.md"
    save_files(page, site.folder)
    daemon = site.start()
    for instance in ("thermo1", "thermo2", "cryo"):
        daemon.wait_for(instance, pb.NEXT_ACTION_UP)
    everything = "hostmanager logs thermo1 thermo2 cryo"
    wait_until(lambda: run(site, everything).count("reading 1\n") == 3, "two lines of each")
    outputs = follow(site, page)
    [shown] = [block.text for block in blocks(page) if block.language == "text"]
    three = outputs["hostmanager logs 'thermo*' cryo -n 2 -t"]
    assert shape(three) == shape(shown)
    assert [line.split()[3] for line in three.splitlines()] == sorted(
        line.split()[3] for line in three.splitlines()
    )
    assert "stage: reading 1\n" in outputs["hostmanager logs thermo1 --since 15m"]
    assert outputs["hostmanager logs 'thermo*' --since yesterday --until 1h -t"] == ""
    previous = outputs["hostmanager logs thermo1 --previous -n 3"].splitlines()
    assert len(previous) == 3
    assert not previous[-1].endswith("reading 0")


def test_hooks_run_once_over_a_death_and_an_upgrade_of_the_daemon_as_the_page_says(site: Site) -> None:
    save_files(ROOT / "docs" / "how-to" / "alerts.md", site.folder)
    (site.folder / "sensor.py").write_text("raise SystemExit('no sensor')")
    alerts = site.folder / "alerts.txt"
    site.start()
    wait_until(lambda: alerts.exists() and alerts.read_text(), "the hook for the failure")
    site.kill_daemons()
    site.start()
    run(site, "hostmanager upgrade")
    run(site, "hostmanager down thermo1 --wait")
    wait_until(lambda: "recover" in alerts.read_text(), "the hook for the end of the failure")
    failure, recovery = alerts.read_text().splitlines()
    assert failure.startswith("failure thermo1 CrashLoop ")
    assert recovery.startswith("recover thermo1 TargetDown not wanted any longer")
    wait_until(lambda: "HookRan" in run(site, "hostmanager events thermo1"), "the event of the hook")


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_python_samples_run_against_a_daemon(sample: Example, site: Site) -> None:
    site.write([{"instance-id": name, "command": ["sleep", "600"]} for name in INSTANCES])
    daemon = site.start()
    output = site.folder / "output"
    with output.open("wb") as file:
        program = subprocess.Popen(
            [sys.executable, "-u", "-c", sample.text], env=environment(site), stdout=file, stderr=file
        )

    def printed_or_ended() -> bool:
        if "wait_for" not in sample.text:  # the sample waits for the end of an agent
            pid = daemon.instance("thermo1").process.pid
            if pid:
                with suppress(ProcessLookupError):  # the daemon has not yet seen the end of the process
                    os.kill(pid, signal.SIGKILL)
        return program.poll() is not None or bool(output.read_bytes())

    try:
        wait_until(printed_or_ended, "the sample to print something, or to end")
        program.send_signal(signal.SIGINT)
        program.wait(PATIENCE)
    finally:
        program.kill()
        program.wait()
    printed = output.read_text()
    assert printed
    assert printed.count("Traceback") == printed.count("KeyboardInterrupt"), printed
