"""All starts in progress, and which of them need which others."""

from __future__ import annotations

from hostmanager_server.drivers.compose.service_containers import Key
from hostmanager_server.drivers.compose.starts.start import Start


class StartTable:
    """The starts by service."""

    def __init__(self) -> None:
        self._starts: dict[Key, Start] = {}

    def get(self, key: Key) -> Start | None:
        """Return the start of a service, or None."""
        return self._starts.get(key)

    def add(self, start: Start) -> None:
        """Add a start, in place of an earlier start of the service."""
        self._starts[start.key] = start

    def remove(self, start: Start) -> None:
        """Remove a start, unless another has taken its place."""
        if self.is_current(start):
            del self._starts[start.key]

    def clear(self) -> None:
        """Remove all starts."""
        self._starts.clear()

    def all(self) -> list[Start]:
        """Return all starts."""
        return list(self._starts.values())

    def is_current(self, start: Start) -> bool:
        """Return whether a start is in progress."""
        return self._starts.get(start.key) is start

    def dependents(self, key: Key) -> list[Start]:
        """Return the starts of services that depend on a service."""
        project, name = key
        return [s for s in self.all() if s.wanted.project == project and name in s.wanted.depends_on]

    def requesters(self, key: Key) -> list[Start]:
        """Return the starts that have requested the start of a service, and wait for its outcome."""
        project, name = key
        return [s for s in self.all() if s.wanted.project == project and s.requested.get(name, "") is None]
