"""The global options of one command, and the client that they select."""

from __future__ import annotations

import os

from hostmanager.values import dataclass, field

from hostmanager_client.address import Address, default_address, parse_address
from hostmanager_client.errors import HostManagerError, NotFound

TYPE_CHECKING = False  # short commands do without the packages `collections` and `contextlib`
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import Any

    import click

    from hostmanager_client.sync import HostManagerClient

MOST_KNOWN = 10  # ids in an error


@dataclass(slots=True)
class CliSession:
    """One run of the command line. `asked` returns the instance ids in its arguments."""

    address: str | None = None
    json: bool = False
    timeout: float | None = None
    asked: Callable[[], list[str]] = field(default=list)

    def find_address(self) -> Address:
        """Return the address of the daemon; raise InvalidAddress or PermissionDenied."""
        return parse_address(self.address) if self.address is not None else default_address()

    def connect(self, timeout: float | None = None) -> AbstractContextManager[HostManagerClient]:
        """Open a client of the daemon that the options name; `timeout` replaces the --timeout option."""
        # gRPC reads these variables at import. Its warnings do not help users; its fork handlers serve only
        # programs that fork without exec, and take time.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
        from hostmanager_client.admin_socket import address_with_capacity
        from hostmanager_client.sync import HostManagerClient

        address = address_with_capacity(self.find_address())
        return OpenClient(HostManagerClient(address, timeout=timeout or self.timeout), self.asked)


class OpenClient:
    """A client inside a `with` statement, which closes it and adds suggestions to an error about ids."""

    def __init__(self, client: Any, asked: Callable[[], list[str]]) -> None:
        self._client = client
        self._asked = asked

    def __enter__(self) -> Any:
        return self._client

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if isinstance(error, NotFound):
                raise with_suggestions(error, self._client, self._asked()) from error
        finally:
            self._client.close()


def current_session(ctx: click.Context) -> CliSession:
    """Return the session of this run; works during shell completion, too."""
    session = ctx.find_root().ensure_object(CliSession)
    session.asked = _ids_of_command
    return session


def pass_session(ctx: click.Context | None = None) -> CliSession:
    """Return the session of the current command."""
    import click

    return current_session(ctx or click.get_current_context())


def with_suggestions(error: NotFound, client: HostManagerClient, asked: list[str]) -> NotFound:
    """Return the error with suggestions for the unknown ids."""
    from hostmanager_client.cli.suggest import close_words, natural_key
    from hostmanager_client.light.client import FullClientNeeded
    from hostmanager_client.selectors import Selector, id_or_selector

    names = [id_or_selector(word) for word in asked]
    try:
        known = sorted((child.instance_id for child in client.get_status().child_states), key=natural_key)
    except (HostManagerError, FullClientNeeded):
        return error  # the first error tells more than this one
    unknown = [name for name in names if name not in known and not isinstance(name, Selector)]
    near = [close for name in unknown if (close := close_words(name, known))]
    if not unknown and known and not _has_pattern_of_ids(names):
        return error  # the daemon has named the classes or labels
    if near:
        hint = " ".join(f"did you mean {' or '.join(map(repr, close))}?" for close in near)
    elif known:
        hint = f"known: {', '.join(known[:MOST_KNOWN])}{', ...' if len(known) > MOST_KNOWN else ''}"
    else:
        hint = "the daemon has no instances"
    return NotFound(
        f"{error.message}; {hint}",
        reason=error.reason,
        metadata=error.metadata,
        violations=error.violations,
        address=error.address,
    )


def _has_pattern_of_ids(names: list[str]) -> bool:
    return not names or any(not name.startswith(("@", "class:", "label:")) for name in names)


def _ids_of_command() -> list[str]:
    """Return the instance ids in the arguments of the current command."""
    import click

    params = click.get_current_context().params
    words: list[str] = []
    for name in ("instance_ids", "instance_id", "instance", "changes"):
        value = params.get(name) or ()
        words += [value] if isinstance(value, str) else [v if isinstance(v, str) else v[0] for v in value]
    return words
