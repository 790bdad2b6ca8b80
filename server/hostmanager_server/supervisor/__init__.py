"""The supervisor: the one thread that owns the state."""

from hostmanager_server.supervisor.errors import (
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
from hostmanager_server.supervisor.loop import now
from hostmanager_server.supervisor.persistence import Left
from hostmanager_server.supervisor.site import Config
from hostmanager_server.supervisor.supervisor import CallSoon, MakeServices, Supervisor

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
