"""The supervisor: the thread that owns the state of all instances."""

from hostmanager_server.core.announcements import SiteConfig
from hostmanager_server.core.recovery import Recovered
from hostmanager_server.supervisor.errors import (
    Accepted,
    AdoptionError,
    ConfigError,
    EndingError,
    InvalidRequestError,
    JobAccepted,
    NotDurableError,
    ReplacingError,
    RequestError,
    SignalError,
    StaleEpochError,
    UpgradeError,
    WrongStateError,
)
from hostmanager_server.supervisor.loop import now
from hostmanager_server.supervisor.supervisor import MakeServiceDriver, Supervisor

__all__ = [
    "Accepted",
    "AdoptionError",
    "ConfigError",
    "EndingError",
    "InvalidRequestError",
    "JobAccepted",
    "MakeServiceDriver",
    "NotDurableError",
    "Recovered",
    "ReplacingError",
    "RequestError",
    "SignalError",
    "SiteConfig",
    "StaleEpochError",
    "Supervisor",
    "UpgradeError",
    "WrongStateError",
    "now",
]
