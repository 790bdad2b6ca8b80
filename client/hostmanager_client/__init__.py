"""The typed client of HostManager.

    from hostmanager_client import UP, HostManagerClient

    with HostManagerClient() as client:
        answer = client.update({"thermo1": UP})
        client.wait_for({g.instance_id: g.generation for g in answer.generations}, timeout=30)

AsyncHostManagerClient is the same for asyncio. Each name is loaded at its first use, so that a program
imports only the modules of the names in use.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` has a cost that short commands need not pay
if TYPE_CHECKING:
    from hostmanager_client.address import Address, default_address, parse_address
    from hostmanager_client.aio import AsyncHostManagerClient
    from hostmanager_client.calls import DOWN, UP, EventListing, Listing
    from hostmanager_client.channel import Transport
    from hostmanager_client.errors import (
        Aborted,
        DeadlineExceeded,
        HostManagerError,
        InvalidAddress,
        InvalidRequest,
        LimitExceeded,
        NotFound,
        PermissionDenied,
        PreconditionFailed,
        ServerBug,
        TargetNotReached,
        Unreachable,
        Unreached,
        Unsupported,
        Violation,
    )
    from hostmanager_client.log_merge import InstanceLine
    from hostmanager_client.reconnect import Disconnected, Reconnect, Reconnected
    from hostmanager_client.selectors import Selector
    from hostmanager_client.state import HostState, StatusUpdate
    from hostmanager_client.sync import HostManagerClient
    from hostmanager_client.waiting import WaitProgress
    from hostmanager_client.words import to_json

__all__ = [
    "DOWN",
    "UP",
    "Aborted",
    "Address",
    "AsyncHostManagerClient",
    "DeadlineExceeded",
    "Disconnected",
    "EventListing",
    "HostManagerClient",
    "HostManagerError",
    "HostState",
    "InstanceLine",
    "InvalidAddress",
    "InvalidRequest",
    "LimitExceeded",
    "Listing",
    "NotFound",
    "PermissionDenied",
    "PreconditionFailed",
    "Reconnect",
    "Reconnected",
    "Selector",
    "ServerBug",
    "StatusUpdate",
    "TargetNotReached",
    "Transport",
    "Unreachable",
    "Unreached",
    "Unsupported",
    "Violation",
    "WaitProgress",
    "default_address",
    "parse_address",
    "to_json",
]

_HOMES = {
    "address": ("Address", "default_address", "parse_address"),
    "aio": ("AsyncHostManagerClient",),
    "channel": ("Transport",),
    "calls": ("DOWN", "UP", "EventListing", "Listing"),
    "log_merge": ("InstanceLine",),
    "reconnect": ("Disconnected", "Reconnect", "Reconnected"),
    "selectors": ("Selector",),
    "state": ("HostState", "StatusUpdate"),
    "sync": ("HostManagerClient",),
    "waiting": ("WaitProgress",),
    "words": ("to_json",),
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    home = next((module for module, names in _HOMES.items() if name in names), "errors")
    value: object = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
