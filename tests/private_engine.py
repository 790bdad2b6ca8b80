"""A private Docker Engine that a test may kill, freeze or restart."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from tests.docker_engine import DEADLINE, DockerCallError, RealEngine, wait_while_running


class PrivateEngine:
    """One dockerd, with its containerd, in a separate directory and network namespace.

    Every dockerd claims the machine's docker0 and netfilter; with --bridge=none, dockerd even deletes the
    docker0 of other engines. With a namespace each, any number of engines can run. The ports that containers
    publish are unreachable from outside, and outside services, such as a registry, are unreachable from the
    containers.
    """

    def __init__(self, *options: str) -> None:
        """Create the engine's directory.

        `options` are options of dockerd, such as --live-restore, with which containers outlive their engine.
        """
        # The path of a socket is limited to some hundred bytes, and pytest's directories are long.
        self.directory = Path(tempfile.mkdtemp(prefix="hm-", dir="/tmp"))
        self.engine = RealEngine(f"unix://{self.directory}/docker.sock")
        self.log = self.directory / "log"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The pid of dockerd, while dockerd runs."""
        return self._running.pid

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "dockerd was not started, or has been ended"
        return self._process

    def start(self) -> None:
        """Start dockerd, and wait until the engine answers."""
        assert self._process is None, "dockerd runs already"
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [
                    *("unshare", "--net", "dockerd"),
                    *("--host", self.engine.host, "--pidfile", self.directory / "pid"),
                    *("--data-root", self.directory / "data", "--exec-root", self.directory / "exec"),
                    *("--bridge=none", "--iptables=false", "--ip6tables=false"),
                    *self._options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_while_running(self.engine.answers, "dockerd does not start", self._process)
        except AssertionError as error:
            last_lines = self.log.read_text(errors="replace").splitlines()[-20:]
            raise AssertionError("\n".join([str(error), *last_lines])) from None

    def stop(self) -> None:
        """Stop dockerd in good order.

        Without --live-restore, dockerd first stops its containers.
        """
        self._running.terminate()
        self._running.wait(DEADLINE)
        self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def kill(self) -> None:
        """Kill dockerd and its containerd with SIGKILL; the containers run on.

        The next start ends the containers, except with --live-restore, where the engine takes them back.
        """
        pid_file = self.directory / "exec/containerd/containerd.pid"
        containerd = os.pidfd_open(int(pid_file.read_text()))
        try:
            self._running.kill()
            self._running.wait(DEADLINE)
            # Whether the kernel ends containerd together with dockerd depends on the thread that forked it.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(containerd, signal.SIGKILL)
            assert select.select([containerd], [], [], DEADLINE)[0], "containerd does not end"
        finally:
            os.close(containerd)
        # Until the machine's init reaps containerd, the next dockerd would believe it alive.
        pid_file.unlink()
        self._process = None

    def leave_behind(self, container: str) -> None:
        """Create the directory that a dockerd killed during a container's start may leave."""
        tasks = self.directory / "exec/containerd/daemon/io.containerd.runtime.v2.task/moby"
        (tasks / container).mkdir(parents=True)

    def freeze(self) -> None:
        """Stop dockerd by SIGSTOP: the kernel accepts connections, but no answer comes."""
        self._running.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def thaw(self) -> None:
        self._running.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Remove every container, network, process, mount and file of the engine.

        A second call does nothing.
        """
        if not self.directory.exists():
            return
        try:
            if self._process is None:
                self.start()  # only the engine knows its networks and cgroups
            self.thaw()
            if containers := self.engine.docker("ps", "--all", "--quiet").split():
                self.engine.docker("rm", "--force", "--volumes", *containers)
            self.engine.docker("network", "prune", "--force")
            self.stop()
        except (AssertionError, DockerCallError, subprocess.TimeoutExpired) as error:
            raise AssertionError(f"cannot clean up a private engine in good order: {error}") from error
        finally:
            self._kill_processes()
            self._process = None
            self._unmount()
            shutil.rmtree(self.directory)

    def _kill_processes(self) -> None:
        """Kill dockerd, containerd, its shims, and all their descendants."""
        parents: dict[int, int] = {}
        ours: set[int] = set()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
                parents[int(entry.name)] = int(rest.split()[1])
                command = (entry / "cmdline").read_bytes()
                if name.startswith(("dockerd", "containerd")) and os.fsencode(self.directory) in command:
                    ours.add(int(entry.name))
        if self._process is not None:
            ours.add(self._process.pid)
        while more := {pid for pid, parent in parents.items() if parent in ours and pid not in ours}:
            ours |= more
        for pid in ours:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait(DEADLINE)

    def _unmount(self) -> None:
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for mount in reversed([mount for mount in mounts if Path(mount).is_relative_to(self.directory)]):
            subprocess.run(["umount", "--lazy", mount], check=True)


class StartEngine(Protocol):
    def __call__(self, *options: str) -> PrivateEngine:
        """Start a private engine, and wait until the engine answers.

        `options` are options of dockerd.
        """


@contextlib.contextmanager
def private_engines() -> Iterator[StartEngine]:
    """Return a starter of private engines; close all of them at the end."""
    with contextlib.ExitStack() as made:

        def start(*options: str) -> PrivateEngine:
            engine = PrivateEngine(*options)
            made.callback(engine.close)
            engine.start()
            return engine

        yield start
