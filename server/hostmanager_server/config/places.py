"""Places in a site config, for checks after its reading."""

from __future__ import annotations

from hostmanager_server.config.document import Node
from hostmanager_server.config.load import ReadConfig
from hostmanager_server.config.node_reader import Reader

Place = tuple[str, int, int]  # file, line, column; 0, 0 for the whole file
_NEEDED_IN_HUB = ("wamp_server", "wamp_realm", "address_root")  # without these an agent of OCS does not start


class Places:
    """The places of instances, keys and settings of the host of one reading."""

    def __init__(self, read: ReadConfig) -> None:
        self._read = read

    def of(self, instance_id: str, key: str) -> Place:
        """Return the place of a key of an instance or of its class, else that of the instance."""
        instances = self._read.instances
        found = instances.read.get(instance_id) if instances is not None else None
        if found is None:
            return self._place(None)
        return self._place(found.settings.places.get(key, found.class_node))

    def of_log_directory(self) -> Place:
        """Return the place of `log-dir`."""
        return self._place(self._read.host_nodes.get("log-dir"))

    def of_hub(self) -> Place:
        """Return the place of `hub`."""
        return self._place(self._read.hub[0] if self._read.hub is not None else None)

    def missing_in_hub(self) -> list[str]:
        """Return the keys of `hub` that agents of OCS need and that the site config lacks."""
        keys = self._read.hub[1] if self._read.hub is not None else ()
        return [key for key in _NEEDED_IN_HUB if key not in keys]

    def _place(self, node: Node | None) -> Place:
        reader = self._read.reader
        if node is None or reader is None:
            return self._read.config.file, 0, 0
        assert isinstance(reader, Reader)
        return (*reader.place(node), node.column)
