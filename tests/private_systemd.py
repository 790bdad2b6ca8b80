"""A private systemd for tests, in separate namespaces and a cgroup."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

SYSTEMD = Path("/lib/systemd/systemd")
_NAMESPACES = ("--pid", "--mount", "--net", "--cgroup", "--uts", "--ipc")

# This systemd must not write to the machine: its state is in memory, and files of the machine are read-only.
_BOOT = """
set -e
mount --make-rprivate /
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /var/lib
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount --bind /etc /etc
mount -o remount,bind,ro /etc
mkdir -p /run/systemd/system
export container=test SYSTEMD_UNIT_PATH="$1"
exec "$2" --system --unit=test.target --log-target=console --show-status=no
"""


@dataclass(frozen=True)
class PrivateSystemd:
    """A running systemd, which reads its units from the folder `units`."""

    units: Path
    pid: int  # of process 1, in the namespace of the tests

    def outside(self, path: str) -> Path:
        """Return the path for tests of a path in the namespace of systemd."""
        return Path(f"/proc/{self.pid}/root{path}")

    def run(self, *command: str) -> str:
        """Run a command in the namespaces of systemd and return its output.

        Raises CalledProcessError.
        """
        inside = [
            "nsenter",
            f"--target={self.pid}",
            "--pid",
            "--mount",
            "--net",
            "--cgroup",
            "--uts",
            "--ipc",
        ]
        done = subprocess.run([*inside, *command], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
        return done.stdout

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()


def _cgroup_of_this_process() -> Path | None:
    """Return the directory of the cgroup, or None without unified hierarchy."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    found = next((Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"), None)
    if found is None:
        return None
    own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    return found / own.removeprefix("0::").lstrip("/")


@contextmanager
def private_systemd(folder: Path) -> Iterator[PrivateSystemd | str]:
    """Start a systemd with its files in `folder`.

    Where the machine allows no systemd, the context yields the reason.
    """
    if os.geteuid() != 0:
        yield "a private systemd needs root"
        return
    missing = [name for name in ("unshare", "nsenter", "systemctl") if shutil.which(name) is None]
    if missing or not SYSTEMD.exists():
        yield f"not installed: {', '.join(missing) or SYSTEMD}"
        return
    parent = _cgroup_of_this_process()
    if parent is None:
        yield "the unified cgroup hierarchy is not mounted here"
        return
    group = parent / f"hmtest-{secrets.token_hex(4)}"
    try:
        group.mkdir()
    except OSError as error:
        yield f"no cgroup can be made here: {error.strerror}: {group}"
        return
    try:
        with _running(folder, group) as found:
            yield found
    finally:
        for directory in [*sorted((p for p in group.rglob("*") if p.is_dir()), reverse=True), group]:
            with suppress(OSError):
                directory.rmdir()


@contextmanager
def _running(folder: Path, group: Path) -> Iterator[PrivateSystemd | str]:
    units = folder / "units"
    units.mkdir()
    for name in ("test", "sysinit", "basic", "shutdown"):  # every service refers to the last three
        (units / f"{name}.target").write_text(f"[Unit]\nDescription={name}\nDefaultDependencies=no\n")
    log = folder / "systemd.log"
    enter = f'echo $$ > {group}/cgroup.procs; exec unshare --fork --kill-child "$@"'
    boot = ["sh", "-c", _BOOT, "boot", str(units), str(SYSTEMD)]
    with log.open("wb") as out:
        unshare = subprocess.Popen(
            ["sh", "-c", enter, "enter", *_NAMESPACES, *boot],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    try:
        yield _wait_until_it_runs(unshare, units, log)
    finally:
        unshare.send_signal(
            signal.SIGKILL
        )  # ends process 1, and thereby all other processes of the namespace
        unshare.wait()
        _wait_until_empty(group)


def _wait_until_it_runs(unshare: subprocess.Popen[bytes], units: Path, log: Path) -> PrivateSystemd | str:
    from tests.waiting import wait_until

    def started() -> PrivateSystemd | str | None:
        if unshare.poll() is not None:
            return f"systemd does not run in namespaces here: {log.read_text().strip()[-500:]}"
        children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text().split()
        if not children:
            return None
        found = PrivateSystemd(units, int(children[0]))
        try:
            state = found.run("systemctl", "is-system-running")
        except subprocess.CalledProcessError as error:
            state = error.stdout
        return found if state.strip() in ("running", "degraded") else None

    return wait_until(started, "systemd to run") or ""


def _wait_until_empty(group: Path) -> None:
    from tests.waiting import wait_until

    wait_until(lambda: "populated 0" in (group / "cgroup.events").read_text(), "the cgroup to be empty")
