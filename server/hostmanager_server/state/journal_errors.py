"""Descriptions of journal failures for operators, with remedies."""

from __future__ import annotations

import sqlite3
from pathlib import Path


def describe_failure(path: Path, failure: Exception, retry: float) -> str:
    """Return one sentence on a failed write: cause, effect, remedy and the seconds to the next attempt."""
    return (
        f"cannot write the journal {path}: {_cause(failure)}; the daemon acts on every change, but would "
        f"forget changes if it died: {_remedy(failure)}; the daemon tries again every {retry:g} s"
    )


def _cause(failure: Exception) -> str:
    if isinstance(failure, sqlite3.Error) and (name := getattr(failure, "sqlite_errorname", "")):
        return f"{failure} ({name})"
    return str(failure)


def _remedy(failure: Exception) -> str:
    if isinstance(failure, sqlite3.Error):
        match getattr(failure, "sqlite_errorcode", 0) & 0xFF:  # the higher bits say where in SQLite
            case sqlite3.SQLITE_FULL:
                return "free some space on that disk"
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_CANTOPEN:
                return "check that the state directory exists and is writable"
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return "find the process that locks the file"
    return "check that disk, and whether it is full"
