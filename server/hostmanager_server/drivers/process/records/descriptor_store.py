"""The descriptor store of the service manager: pidfds that outlive the daemon.

Another process reaps an agent that ends while no daemon is alive. Afterwards only a pidfd that stayed open
all the time can report the exit status (Linux 6.15); systemd keeps one, and passes it to the next daemon
(FileDescriptorStoreMax= in systemd.service(5)).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, MutableMapping

from hostmanager_server.linux.sd_notify import NotifySocket

# The next daemon gets them as descriptors 3 and up, and they must stay below the soft limit of open files,
# usually 1024.
MAX_STORED = 900


class DescriptorStore:
    """Keeps a pidfd for each run, by the run's token.

    Does nothing without a service manager.

    The store never waits for a service manager that is busy: the loss of a pidfd costs only an exit status,
    and the store removes a needless pidfd later.
    """

    def __init__(self, socket: NotifySocket | None, passed: Mapping[str, int]) -> None:
        self._socket = socket
        self._passed = dict(passed)
        self._kept: set[str] = set(passed)
        self._to_drop: list[str] = []

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> DescriptorStore:
        """Return the store of the service manager that started this process.

        The store holds the pidfds that the service manager has passed.

        Removes the variables of the protocol from `environ`, because they mean nothing to a program that
        this process may execute.
        """
        passed = {}
        listed = {name: environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
        if listed["LISTEN_PID"] == str(os.getpid()) and listed["LISTEN_FDS"].isdecimal():
            names = listed["LISTEN_FDNAMES"].split(":")
            for name, descriptor in zip(names, range(3, 3 + int(listed["LISTEN_FDS"])), strict=False):
                os.set_inheritable(descriptor, False)
                passed[name] = descriptor
        return cls(NotifySocket.from_environment(environ), passed)

    def keep(self, token: str, pidfd: int) -> None:
        """Store the pidfd of a run in the service manager."""
        if self._socket is None or len(self._kept) >= MAX_STORED:
            return
        # FDPOLL=0: the pidfd must stay stored after the process ends.
        if self._socket.send("FDSTORE=1", f"FDNAME={token}", "FDPOLL=0", descriptors=(pidfd,)):
            self._kept.add(token)

    def drop(self, token: str) -> None:
        """Remove a run's pidfd from the service manager; ignore unknown runs.

        A removal that fails is repeated with the next call.

        Call when the end of the run has been reported.
        """
        if self._socket is None:
            return
        self._kept.discard(token)
        self._to_drop.append(token)
        while self._to_drop and self._socket.send("FDSTOREREMOVE=1", f"FDNAME={self._to_drop[-1]}"):
            self._to_drop.pop()

    def passed(self, token: str) -> int | None:
        """Return the pidfd that the service manager passed for a run, or None.

        The store closes the pidfd.
        """
        return self._passed.get(token)

    def close_passed(self, tokens: Collection[str]) -> None:
        """Close all passed pidfds, and drop those of other runs than `tokens`.

        The runs in `tokens` go on, and their pidfds stay stored.
        """
        for token, descriptor in self._passed.items():
            os.close(descriptor)
            if token not in tokens:
                self.drop(token)
        self._passed.clear()
        self._kept.update(tokens)

    def close(self) -> None:
        """Stop sending; stored pidfds stay with the service manager."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
