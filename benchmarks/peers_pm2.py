"""pm2 as a peer of the benchmarks, through its own client and its bus of events."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.agents import BENCH, PATIENCE, SHELL, Child
from benchmarks.managers import Manager, WaitForExits, wait_ended, watch_ends
from benchmarks.peers import require

MODULE = BENCH / "pm2" / "node_modules" / "pm2"
_DRIVER = Path(__file__).with_name("pm2_driver.js")


class Pm2(Manager):
    """The daemon of pm2, without a restart delay; a client in Node passes commands and exits on."""

    name = "pm2"

    def __init__(self, count: int, child: Child = SHELL) -> None:
        require(self.name, self.missing())
        super().__init__(child)
        self.home = self.folder / "pm2"
        apps = self.folder / "apps.json"
        apps.write_text(json.dumps([self._app(f"i{number:04}") for number in range(count)]))
        self._lines: queue.SimpleQueue[tuple[str, float]] = queue.SimpleQueue()
        self._exits: queue.SimpleQueue[tuple[str, float]] = queue.SimpleQueue()
        self._driver = subprocess.Popen(
            [shutil.which("node") or "", _DRIVER, MODULE, apps],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=self.folder,
            env={**os.environ, "PM2_HOME": str(self.home), "PM2_DISABLE_VERSION_CHECK": "true"},
        )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()
        try:
            self._wait_for("ready")
        except BaseException:  # an interrupt too: no caller can close the manager yet
            self.close()
            raise

    @staticmethod
    def missing() -> str:
        if shutil.which("node") is None:
            return "there is no node"
        return "" if MODULE.exists() else f"it is not in {MODULE.parent}; run `scripts/setup-peers`"

    def _app(self, name: str) -> dict[str, object]:
        script, *arguments = self.reports.command(name)
        return {
            "name": name, "script": script, "args": arguments, "interpreter": "none", "exec_mode": "fork",
            "autorestart": True, "restart_delay": 0, "max_restarts": 10**9, "out_file": "/dev/null",
            "error_file": "/dev/null",
        }  # fmt: skip

    def _read(self) -> None:
        assert self._driver.stdout is not None
        for line in self._driver.stdout:
            moment = time.monotonic()
            word, _, name = line.decode().rstrip("\n").partition(" ")
            if word == "exit":
                self._exits.put((name, moment))
            elif word in ("ready", "done", "error"):  # pm2 may print other lines
                self._lines.put((line.decode().rstrip("\n"), moment))

    def _wait_for(self, expected: str) -> None:
        try:
            line, _ = self._lines.get(timeout=PATIENCE)
        except queue.Empty:
            raise TimeoutError(f"pm2 did not answer {expected!r} in {PATIENCE:g} s") from None
        if line != expected:
            raise RuntimeError(f"cannot measure pm2: {line}")

    def _ask(self, command: str) -> None:
        assert self._driver.stdin is not None
        self._driver.stdin.write(f"{command}\n".encode())
        self._driver.stdin.flush()

    @property
    def pid(self) -> int:
        """The pid of pm2's daemon."""
        return int((self.home / "pm2.pid").read_text())

    def start_all(self) -> None:
        self._ask("start")
        self._wait_for("done start")

    def stop_all(self) -> None:
        self._ask("stop")
        self._wait_for("done stop")

    def status(self) -> None:
        self._ask("list")
        self._wait_for("done list")

    def status_command(self) -> list[str]:
        return ["env", f"PM2_HOME={self.home}", str(MODULE / "bin" / "pm2"), "list"]

    @contextmanager
    def exits(self, name: str) -> Iterator[WaitForExits]:
        while not self._exits.empty():
            self._exits.get()

        def wait(count: int) -> float:
            ended: set[str] = set()
            moment = 0.0
            while len(ended) < count:
                exited, moment = self._exits.get(timeout=PATIENCE)
                ended.add(exited)
            return moment

        yield wait

    def close(self) -> None:
        """End pm2's daemon, which is no child of the benchmark, and its client."""
        try:
            daemon = watch_ends([self.pid])
        except (OSError, ValueError):  # it did not start
            daemon = []
        try:
            with suppress(OSError):
                self._ask("end")
            with suppress(subprocess.TimeoutExpired):
                self._driver.wait(PATIENCE)
            for fd in daemon:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
            wait_ended(daemon)
        finally:
            self._driver.kill()
            self._driver.wait()
            super().close()
