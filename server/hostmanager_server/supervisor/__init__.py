"""The supervisor: the one thread that owns the state."""

from hostmanager_server.supervisor.loop import now
from hostmanager_server.supervisor.memory import Left
from hostmanager_server.supervisor.requests import (
    Accepted,
    AdoptionError,
    ConfigError,
    EndingError,
    InvalidRequestError,
    NotDurableError,
    ReplacingError,
    RequestError,
    StaleEpochError,
    UpgradeError,
    WrongStateError,
)
from hostmanager_server.supervisor.site import Config
from hostmanager_server.supervisor.thread import CallSoon, MakeServices, Supervisor

__all__ = [
    "Accepted",
    "AdoptionError",
    "CallSoon",
    "Config",
    "ConfigError",
    "EndingError",
    "InvalidRequestError",
    "Left",
    "MakeServices",
    "NotDurableError",
    "ReplacingError",
    "RequestError",
    "StaleEpochError",
    "Supervisor",
    "UpgradeError",
    "WrongStateError",
    "now",
]
