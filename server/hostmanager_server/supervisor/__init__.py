"""The supervisor: the one thread that owns the state."""

from hostmanager_server.supervisor.requests import (
    Accepted,
    InvalidRequestError,
    ConfigError,
    WrongStateError,
    RequestError,
    StaleEpochError,
)
from hostmanager_server.supervisor.thread import Supervisor

__all__ = [
    "Accepted",
    "InvalidRequestError",
    "ConfigError",
    "WrongStateError",
    "RequestError",
    "StaleEpochError",
    "Supervisor",
]
