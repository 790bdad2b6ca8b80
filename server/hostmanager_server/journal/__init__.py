"""The journal: what was asked of the manager, on disk before the answer leaves."""

from hostmanager_server.journal.journal import Journal, Recovered
from hostmanager_server.journal.schema import VERSION

__all__ = ["VERSION", "Journal", "Recovered"]
