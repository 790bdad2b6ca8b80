"""The choice of a host's entry in the site config, and the address of a host."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from hostmanager_server.config.document import Node
from hostmanager_server.config.node_reader import Entry, Reader, shown, suggest
from hostmanager_server.config.quantities import parse_whole

# The host entry for any machine without an entry of its own name, as in OCS.
ANY_HOST = "localhost"
HOSTS_NAMED = 15  # in an error


def choose_host(hosts: Mapping[str, Entry], host: str | None) -> str | None:
    """Return the host to use; only a machine without an entry of its name falls back to `localhost`."""
    fallback = () if host else (ANY_HOST,)
    return next((name for name in (*host_names(host), *fallback) if name in hosts), None)


def host_names(host: str | None) -> tuple[str, ...]:
    """Return the names under which the config may have the host, the first one first."""
    if host:
        return (host,)
    name = socket.gethostname()
    return name, name.partition(".")[0]


def report_missing_host(reader: Reader, hosts: Mapping[str, Entry], host: str | None) -> None:
    """Report that no entry is for the host, with the names of those that are there."""
    name = host_names(host)[0]
    listed = sorted(hosts)
    more = f" and {len(listed) - HOSTS_NAMED} more" if len(listed) > HOSTS_NAMED else ""
    hint = suggest(name, hosts)
    known = f"hosts: {', '.join(listed[:HOSTS_NAMED])}{more}" + (f"; {hint}" if hint else "")
    text = f"the site config has no host {shown(name)}" + ("" if host else f", and no {ANY_HOST!r}")
    text += f" ({known}); choose a host with --host"
    reader.error(next(iter(hosts.values())).key, text)


def read_address(reader: Reader, node: Node, label: str) -> str | None:
    """Return an address to listen on; None after an error."""
    text = reader.text(node, label)
    if text is None or text.startswith("unix:") or "/" in text:
        return text
    host, _, digits = text.rpartition(":")
    port = parse_whole(digits)
    if host and port is not None and 0 <= port < 65536:
        return text
    reader.error(node, f"{label} must be HOST:PORT, or unix:PATH for a socket, not {shown(text)}")
    return None
