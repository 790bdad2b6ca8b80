"""The global options of one command, and the client that they select."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
from hostmanager.values import dataclass

from hostmanager_client.address import default_address, parse_address
from hostmanager_client.admin_socket import address_with_capacity
from hostmanager_client.errors import HostManagerError, NotFound

if TYPE_CHECKING:
    from hostmanager_client.sync import HostManagerClient


@dataclass(slots=True)
class CliSession:
    """One run of the command line."""

    address: str | None = None
    json: bool = False
    timeout: float | None = None

    @contextmanager
    def connect(self, timeout: float | None = None) -> Iterator[HostManagerClient]:
        """Open a client of the daemon that the options name; `timeout` replaces the --timeout option."""
        # gRPC reads these variables at import. Its warnings do not help users; its fork handlers serve only
        # programs that fork without exec, and take time.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
        from hostmanager_client.sync import HostManagerClient

        address = parse_address(self.address) if self.address is not None else default_address()
        with HostManagerClient(address_with_capacity(address), timeout=timeout or self.timeout) as client:
            try:
                yield client
            except NotFound as error:
                raise _with_suggestions(error, client) from error


def current_session(ctx: click.Context) -> CliSession:
    """Return the session of this run; works during shell completion, too."""
    return ctx.find_root().ensure_object(CliSession)


def pass_session(ctx: click.Context | None = None) -> CliSession:
    """Return the session of the current command."""
    return current_session(ctx or click.get_current_context())


def _with_suggestions(error: NotFound, client: HostManagerClient) -> NotFound:
    """Return the error with suggestions for the unknown ids."""
    from difflib import get_close_matches

    try:
        known = [child.instance_id for child in client.get_status().child_states]
    except HostManagerError:
        return error  # the first error tells more than this one
    asked = [word for word in _ids_of_command() if word not in known]
    near = [close for word in asked if (close := get_close_matches(word, known, n=3))]
    if near:
        hint = " ".join(f"did you mean {' or '.join(map(repr, close))}?" for close in near)
    elif known:
        hint = f"known: {', '.join(known[:10])}{', ...' if len(known) > 10 else ''}"
    else:
        hint = "the daemon has no instances"
    return NotFound(
        f"{error.message}; {hint}",
        reason=error.reason,
        metadata=error.metadata,
        violations=error.violations,
        address=error.address,
    )


def _ids_of_command() -> list[str]:
    """Return the instance ids in the arguments of the current command."""
    params = click.get_current_context().params
    words: list[str] = []
    for name in ("instance_ids", "instance_id", "changes"):
        value = params.get(name) or ()
        words += [value] if isinstance(value, str) else [v if isinstance(v, str) else v[0] for v in value]
    return words
