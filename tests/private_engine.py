"""A Docker engine of a test's own, which may be killed, frozen or restarted."""

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

from tests.docker_engine import DEADLINE, DockerEngine, DockerError, wait_until


class PrivateEngine:
    """One dockerd, with the containerd that it starts, in a directory of its own.

    It lives in a network namespace of its own, as every dockerd claims the machine's docker0 and netfilter
    (one with --bridge=none even deletes the docker0 of the others). So any number may run beside each other,
    but what a container publishes is out of reach from outside, and what is outside (a registry) from there.
    """

    def __init__(self, *options: str) -> None:
        """`options` are dockerd's, such as --live-restore, which lets containers outlive their engine."""
        # A socket's path has room for some hundred bytes only, and pytest's directories are long.
        self.directory = Path(tempfile.mkdtemp(prefix="hm-", dir="/tmp"))
        self.engine = DockerEngine(f"unix://{self.directory}/docker.sock")
        self.log = self.directory / "log"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of dockerd. Only while it runs."""
        return self._running.pid

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "dockerd was not started, or has been ended"
        return self._process

    def start(self) -> None:
        """Start dockerd, and wait until it answers."""
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
            wait_until(self.engine.answers, "dockerd does not start", self._process)
        except AssertionError as error:
            said = self.log.read_text(errors="replace").splitlines()[-20:]
            raise AssertionError("\n".join([str(error), *said])) from None

    def stop(self) -> None:
        """End dockerd in good order: its containers are stopped first, unless it has --live-restore."""
        self._running.terminate()
        self._running.wait(DEADLINE)
        self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def kill(self) -> None:
        """End dockerd by SIGKILL, and its containerd; the containers go on.

        The next start ends them, unless the engine has --live-restore: then it takes them back.
        """
        pid_file = self.directory / "exec/containerd/containerd.pid"
        containerd = os.pidfd_open(int(pid_file.read_text()))
        try:
            self._running.kill()
            self._running.wait(DEADLINE)
            # Whether the kernel ends containerd with its parent depends on which thread had forked it.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(containerd, signal.SIGKILL)
            assert select.select([containerd], [], [], DEADLINE)[0], "containerd does not end"
        finally:
            os.close(containerd)
        # Until it is reaped, which is up to the machine's init, the next dockerd would take it for alive.
        pid_file.unlink()
        self._process = None

    def leave_behind(self, container: str) -> None:
        """What is left of a container at times when dockerd is killed as it starts it: no start succeeds."""
        tasks = self.directory / "exec/containerd/daemon/io.containerd.runtime.v2.task/moby"
        (tasks / container).mkdir(parents=True)

    def freeze(self) -> None:
        """Stop dockerd from running at all: connections are accepted by the kernel, and nothing answers."""
        self._running.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def thaw(self) -> None:
        self._running.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Leave nothing behind: no container, network, process, mount or file. May be called again."""
        if not self.directory.exists():
            return
        try:
            if self._process is None:
                self.start()  # it alone knows which networks and cgroups are its
            self.thaw()
            if containers := self.engine.docker("ps", "--all", "--quiet").split():
                self.engine.docker("rm", "--force", "--volumes", *containers)
            self.engine.docker("network", "prune", "--force")
            self.stop()
        except (AssertionError, DockerError, subprocess.TimeoutExpired) as error:
            raise AssertionError(
                f"a private engine could not be cleaned up in good order: {error}"
            ) from error
        finally:
            self._kill_processes()
            self._process = None
            self._unmount()
            shutil.rmtree(self.directory)

    def _kill_processes(self) -> None:
        """What is left of dockerd, containerd and its shims, and all that descends from them."""
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
        """Start a private engine with these options of dockerd, and wait until it answers."""


@contextlib.contextmanager
def private_engines() -> Iterator[StartEngine]:
    """A starter of private engines, all of which are gone at the end."""
    with contextlib.ExitStack() as made:

        def start(*options: str) -> PrivateEngine:
            engine = PrivateEngine(*options)
            made.callback(engine.close)
            engine.start()
            return engine

        yield start
