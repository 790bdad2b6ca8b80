"""The supervisor: the one thread that owns the state."""

from hostmanager_server.core.announcements import SiteConfig
from hostmanager_server.core.recovery import Recovered
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
from hostmanager_server.supervisor.supervisor import CallSoon, MakeServices, Supervisor

__all__ = [
    "Accepted",
    "AdoptionError",
    "CallSoon",
    "ConfigError",
    "EndingError",
    "InvalidRequestError",
    "MakeServices",
    "NotDurableError",
    "Recovered",
    "ReplacingError",
    "RequestError",
    "SiteConfig",
    "StaleEpochError",
    "Supervisor",
    "UpgradeError",
    "WrongStateError",
    "now",
]
