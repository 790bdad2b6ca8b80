"""Drafts of runtime records: locked files that become valid records at once."""

from __future__ import annotations

import fcntl
import os

from hostmanager.values import dataclass

from hostmanager_server.drivers.process.records.files import RECORD, open_record
from hostmanager_server.drivers.process.records.record import IDENTITY_AT, RELEASED_AT, Record, identity_text
from hostmanager_server.linux.pidfds import Identity


@dataclass(frozen=True, slots=True)
class Draft:
    """A record that is not valid yet; the caller closes it.

    Until `commit` the file has the spare name.

    The child inherits `lock`. The gate of the child notes its release through `flag`, which stands at the
    offset of the record's flag `released`; a child without a gate notes its start there.
    """

    lock: int
    flag: int  # writable, at the offset of the flag `released`
    _free: str
    _final: str

    def commit(self, record: Record) -> None:
        """Make the record valid atomically. Raises OSError.

        The file is not synced: the boot id would void a record that a power cut can lose.
        """
        data = record.to_json()
        data += b" " * (os.fstat(self.flag).st_size - len(data))  # blanks over the rest of an earlier record
        at = 0
        try:
            while at < len(data):
                at += os.pwrite(self.flag, data[at:], at)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._free) from error
        os.rename(self._free, self._final)

    def mark_released(self) -> None:
        """Note in the valid record that the agent has left the gate. Raises OSError."""
        os.pwrite(self.flag, b"1", RELEASED_AT)

    def identify(self, identity: Identity) -> None:
        """Note the process of a record that is older than its process. Raises OSError."""
        os.pwrite(self.flag, identity_text(identity), IDENTITY_AT)

    def close(self) -> None:
        """Close both descriptors; the child keeps its own."""
        os.close(self.flag)
        os.close(self.lock)


def open_draft(free: str, final: str) -> Draft:
    """Open and lock the spare file `free`, which `commit` renames to `final`.

    Raises OSError; BlockingIOError when another process holds the lock.
    """
    file = open_record(free, os.O_WRONLY | os.O_CREAT)
    try:
        os.lseek(file, RELEASED_AT, os.SEEK_SET)
        lock = open_record(free, os.O_RDONLY)
    except OSError:
        os.close(file)
        raise
    draft = Draft(lock, file, free, final)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        draft.close()
        raise
    return draft


def free_path(final: str) -> str:
    """Return the path of the file in which the next record is drafted."""
    return final.removesuffix(RECORD) + ".free"
