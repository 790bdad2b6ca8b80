"""The descriptor store of the service manager: pidfds that outlive the daemon.

A process that ends while there is no daemon is reaped by somebody else. How it ended can be told from then on
only through a pidfd that was open all the time (Linux 6.15); systemd holds one for us, and hands it to the
next daemon (FileDescriptorStoreMax= in systemd.service(5)).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, MutableMapping

from hostmanager_server.linux.sd_notify import NotifySocket

# Handed over from descriptor 3 on, they must stay below the soft limit of open files, 1024 as a rule.
MOST = 900


class DescriptorStore:
    """Keeps a pidfd for each run, by the run's token. Does nothing where there is no service manager.

    What cannot be said to it at the moment is not waited for: a pidfd that is not kept costs no more than an
    exit code that nobody knows, and one that is kept for too long is let go of later.
    """

    def __init__(self, socket: NotifySocket | None, passed: Mapping[str, int]) -> None:
        self._socket = socket
        self._passed = dict(passed)
        self._kept: set[str] = set(passed)
        self._to_drop: list[str] = []

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> DescriptorStore:
        """The one of the service manager that started this process, with what it passed over. That is taken
        out of `environ`, as it means nothing to a program that this process becomes."""
        passed = {}
        listed = {name: environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
        if listed["LISTEN_PID"] == str(os.getpid()) and listed["LISTEN_FDS"].isdecimal():
            names = listed["LISTEN_FDNAMES"].split(":")
            for name, descriptor in zip(names, range(3, 3 + int(listed["LISTEN_FDS"])), strict=False):
                os.set_inheritable(descriptor, False)
                passed[name] = descriptor
        return cls(NotifySocket.from_environment(environ), passed)

    def keep(self, token: str, pidfd: int) -> None:
        """Have the pidfd of a run outlive this process."""
        if self._socket is None or len(self._kept) >= MOST:
            return
        # It stays though the process ends: that is what it is for.
        if self._socket.send("FDSTORE=1", f"FDNAME={token}", "FDPOLL=0", descriptors=(pidfd,)):
            self._kept.add(token)

    def drop(self, token: str) -> None:
        """The end of this run is known, and told. Does nothing when it is not kept."""
        if self._socket is None:
            return
        self._kept.discard(token)
        self._to_drop.append(token)
        while self._to_drop and self._socket.send("FDSTOREREMOVE=1", f"FDNAME={self._to_drop[-1]}"):
            self._to_drop.pop()

    def passed(self, token: str) -> int | None:
        """The pidfd of a run that was kept while no daemon lived; not for the caller to close."""
        return self._passed.get(token)

    def close_passed(self, tokens: Collection[str]) -> None:
        """Of what was passed over nothing is needed here any more; these runs go on, and are still kept."""
        for token, descriptor in self._passed.items():
            os.close(descriptor)
            if token not in tokens:
                self.drop(token)
        self._passed.clear()
        self._kept.update(tokens)

    def close(self) -> None:
        """Say nothing any more. What is kept stays so."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
