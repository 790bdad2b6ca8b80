"""Runtime records: the file per run by which the next daemon finds what this one started.

A record is also the run's lock: the agent inherits a descriptor of the file that holds an flock, and
whoever of its tree keeps that open keeps the lock, however it hides otherwise. The descriptor is read-only:
an agent cannot forge what the daemon will act upon. Only its gate may write: that it was released.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hostmanager_server.core.events import Instant, RunKey
from hostmanager_server.core.spec import ProcessSpec

from .cgroup import Group
from .identity import Identity, read_file

VERSION = 2  # 1 had no flags
# Flags stand where they can be set in place, with one byte that is written whole or not at all.
_HEAD = b'{"version": %d, "released": ' % VERSION
_RELEASED_AT = len(_HEAD)
_MIDDLE = b', "ready": '
_READY_AT = _RELEASED_AT + 1 + len(_MIDDLE)
_LONGEST_NAME = 180  # a file name may have 255 bytes, suffixes included
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """One run as written down: who it is, and what it runs. `token` is the value of its environment
    marker. `agent_class` is empty where the daemon that wrote it did not say.

    `released`: it was let out of the gate, so it has been the agent. `ready`: its readiness probe has
    succeeded, or it has none. `group`: its cgroup, if it was given one.
    """

    run: RunKey
    token: str
    identity: Identity
    started: Instant
    process: ProcessSpec
    agent_class: str = ""
    released: bool = False
    ready: bool = True
    group: Group | None = None

    def to_json(self) -> bytes:
        process = self.process
        return json.dumps(
            {
                "version": VERSION,
                "released": int(self.released),
                "ready": int(self.ready),
                "instance_id": self.run.instance_id,
                "agent_class": self.agent_class,
                "number": self.run.number,
                "token": self.token,
                "boot_id": self.identity.boot_id,
                "pid": self.identity.pid,
                "start": self.identity.start,
                "inode": self.identity.inode,
                "started_mono": self.started.mono,
                "started_wall": self.started.wall,
                "process": {
                    "argv": process.argv,
                    "source": process.source,
                    "env": process.env,
                    "working_dir": process.working_dir,
                    "user": process.user,
                    "limits": process.limits,
                },
                "cgroup": self.group and {"path": self.group.path, "inode": self.group.inode},
            }
        ).encode("ascii")

    @staticmethod
    def from_json(data: bytes) -> Record:
        """Raises ValueError, saying what is wrong with it."""
        try:
            fields = json.loads(data)
            if fields["version"] not in (1, VERSION):
                raise ValueError(f"it has version {fields['version']}, not {VERSION}")
            return Record(
                run=RunKey(_text(fields["instance_id"]), int(fields["number"])),
                token=_text(fields["token"]),
                identity=Identity(
                    _text(fields["boot_id"]), int(fields["pid"]), int(fields["start"]), int(fields["inode"])
                ),
                started=Instant(float(fields["started_mono"]), float(fields["started_wall"])),
                process=_process(fields["process"]),
                agent_class=str(fields.get("agent_class", "")),
                released=bool(fields.get("released", True)),
                ready=bool(fields.get("ready", True)),
                group=_group(fields.get("cgroup")),
            )
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"it is not a record: {error!r}") from error


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is not a text")
    return value


def _number(value: Any) -> int | None:
    return None if value is None else int(value)


def _group(fields: Any) -> Group | None:
    return None if fields is None else Group(_text(fields["path"]), int(fields["inode"]))


def _process(fields: Any) -> ProcessSpec:
    return ProcessSpec(
        argv=tuple(_text(word) for word in fields["argv"]),
        source=str(fields["source"]),
        env=tuple((_text(name), str(value)) for name, value in fields["env"]),
        working_dir=_text(fields["working_dir"]),
        user=str(fields["user"]),
        limits=tuple(
            (_text(name), None if value is None else int(value)) for name, value in fields["limits"]
        ),
    )


@dataclass(frozen=True, slots=True)
class Draft:
    """A record that is not yet valid. `lock` is for the child to inherit, and `flag` for its gate, to note
    there that it was released; `close` both descriptors in the end."""

    lock: int
    flag: int  # of the file, its offset where that flag is
    _free: str
    _final: str

    def commit(self, record: Record) -> None:
        """Makes the record valid at once, or not at all. Raises OSError.

        It is not synced: what a power cut loses, the boot id would have voided.
        """
        data = record.to_json()
        data += b" " * (os.fstat(self.flag).st_size - len(data))  # over what stood there before
        at = 0
        try:
            while at < len(data):
                at += os.pwrite(self.flag, data[at:], at)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._free) from error
        os.rename(self._free, self._final)

    def mark_released(self) -> None:
        """Note in the valid record that the agent was let out of the gate. Raises OSError."""
        os.pwrite(self.flag, b"1", _RELEASED_AT)

    def close(self) -> None:
        os.close(self.flag)
        os.close(self.lock)


class Records:
    """The directory of records, one file per instance, readable by the daemon's user only.

    A record is called `*.json` from the release of its run to the end of it. Before and after, its file is
    called `*.free` and kept for the instance's next run: to create and remove one each time costs ten times
    as much.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._not_void: dict[str, None] = {}  # paths of records that are void, and could not be renamed
        self._make_directory()

    def draft(self, instance_id: str) -> Draft:
        """Opens a locked draft for the next run of an instance. Raises OSError."""
        final = self._path(instance_id)
        free = _free(final)
        self._void(*self._not_void)
        try:
            draft = _open_draft(free, final)
        except (BlockingIOError, FileNotFoundError) as error:
            if isinstance(error, BlockingIOError):  # a gate that an earlier daemon died over: it is leaving
                os.unlink(free)
            else:  # somebody cleaned up: that must not keep agents from starting
                self._make_directory()
            draft = _open_draft(free, final)
        self._not_void.pop(final, None)  # it takes the place of that one
        return draft

    def _make_directory(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def mark(self, instance_id: str, *, ready: bool) -> None:
        """Note in the instance's record that its agent was let out of the gate, and whether it is ready.
        Where that cannot be written, the next daemon looks for itself."""
        with contextlib.suppress(OSError):
            file = os.open(self._path(instance_id), os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.pwrite(file, b"1", _RELEASED_AT)
                if ready:
                    os.pwrite(file, b"1", _READY_AT)
            finally:
                os.close(file)

    def is_locked(self, instance_id: str) -> bool:
        """Whether anybody still holds the lock of the instance's latest run. Raises OSError (no
        descriptors)."""
        return _is_locked(self._path(instance_id))

    def unreadable(self, instance_id: str) -> str:
        """The path of a record of the instance that was set aside, if anybody still holds its lock: something
        of a run is alive of which nothing else is known. Empty when there is none. Raises OSError."""
        aside = _aside(self._path(instance_id))
        return aside if _is_locked(aside) else ""

    def file_of(self, instance_id: str) -> tuple[int, int] | None:
        """Device and inode of the instance's record, by which its open descriptors are known."""
        try:
            info = os.stat(self._path(instance_id))
        except FileNotFoundError:
            return None
        return info.st_dev, info.st_ino

    def remove(self, instance_id: str) -> None:
        """Makes the record void, if there is one. Where that cannot be done (a read-only disk) it is done
        later: the run is over all the same, and a daemon that finds its record finds nothing alive."""
        self._void(*self._not_void, self._path(instance_id))

    def _void(self, *paths: str) -> None:
        for path in paths:
            try:
                os.rename(path, _free(path))
            except FileNotFoundError:
                self._not_void.pop(path, None)
            except OSError as error:
                if not self._not_void:
                    _log.error(
                        "cannot void the runtime record '%s': %s; should the daemon die, the next one tells "
                        "of that run's end again",
                        path,
                        error.strerror,
                    )
                self._not_void[path] = None
            else:
                self._not_void.pop(path, None)

    def read(self) -> list[Record]:
        """Every record there is. What is no record is set aside as `*.corrupt`, and logged. Raises OSError: a
        record that cannot be read now is not to be taken for one that is not there."""
        records = []
        for name in sorted(os.listdir(self._directory)):
            path = str(self._directory / name)
            if name.endswith(".free"):
                with contextlib.suppress(OSError):  # read-only
                    os.unlink(path)
            elif name.endswith(".json"):
                try:
                    record = Record.from_json(read_file(path))
                    if self._path(record.run.instance_id) != path:
                        raise ValueError(f"it is of instance '{record.run.instance_id}'")
                    records.append(record)
                except FileNotFoundError:
                    continue  # somebody else was faster
                except ValueError as error:
                    _set_aside(path, error)
        return records

    def _path(self, instance_id: str) -> str:
        return f"{self._directory}/{file_name(instance_id)}.json"


def file_name(instance_id: str) -> str:
    """A file name of its own for each instance id, whatever characters are in it."""
    name = quote(os.fsencode(instance_id), safe="")
    if len(name) > _LONGEST_NAME:
        # No quoted name has a '%' before a '-'.
        name = f"{name[:100]}%-{hashlib.sha256(name.encode()).hexdigest()}"
    return name


def _free(final: str) -> str:
    return final.removesuffix(".json") + ".free"


def _open_draft(free: str, final: str) -> Draft:
    file = os.open(free, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.lseek(file, _RELEASED_AT, os.SEEK_SET)
        lock = os.open(free, os.O_RDONLY | os.O_CLOEXEC)
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


def _is_locked(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _aside(final: str) -> str:
    return final.removesuffix(".json") + ".corrupt"


def _set_aside(path: str, why: Exception) -> None:
    aside = _aside(path)
    try:
        os.rename(path, aside)
    except OSError as error:
        _log.error("cannot read the runtime record '%s' (%s) nor set it aside: %s", path, why, error)
    else:
        _log.error("cannot read the runtime record '%s': %s; it is now '%s'", path, why, aside)
