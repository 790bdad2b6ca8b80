"""The runtime record: one run, as JSON for the next daemon."""

from __future__ import annotations

import json
from typing import Any

from hostmanager.values import dataclass

from hostmanager_server.core.events import Instant, RunKey
from hostmanager_server.core.spec import EnvFile, ProcessSpec
from hostmanager_server.drivers.output.stream import OutputMark
from hostmanager_server.drivers.process.cgroup import Cgroup
from hostmanager_server.linux.pidfds import Identity

VERSION = 2  # version 1 had no flags
_LAST_PID = 1 << 22  # the highest kernel.pid_max, see proc_sys_kernel(5)
# Flags stand at fixed offsets. One byte sets a flag in place, and a write of one byte is atomic.
_HEAD = b'{"version": %d, "released": ' % VERSION
RELEASED_AT = len(_HEAD)
_MIDDLE = b', "ready": '
READY_AT = RELEASED_AT + 1 + len(_MIDDLE)
# The numbers of the main process have fixed widths, with blanks before the digits: a daemon that starts a
# process without the gate writes the record before there is a process, and the numbers into the record later.
_PID_DIGITS, _START_DIGITS, _INODE_DIGITS = 7, 20, 20
_BEFORE_PID = b', "pid": '
IDENTITY_AT = READY_AT + 1


@dataclass(frozen=True, slots=True)
class Record:
    """One run as written to disk: its main process and the spec that it runs.

    `token` is the value of the run marker in the environment. `agent_class` is empty in records of older
    daemons. `released`: the process left the gate, so it has become the agent. `ready`: the readiness probe
    has succeeded, or there is none. `group`: the cgroup, if the daemon created one. `uid`: the user id at
    the start. `mark`: the number in the resource limits (see `membership`). `output`: where the run begins in
    its output file. `uid`, `mark` and `output` are None in records of older daemons.

    A record that is older than its process has 0 in the numbers of `identity`. The process notes its own
    pid before it becomes the agent, and the daemon the rest afterwards (see `noted_start`).
    """

    run: RunKey
    token: str
    identity: Identity
    started: Instant
    process: ProcessSpec
    agent_class: str = ""
    released: bool = False
    ready: bool = True
    group: Cgroup | None = None
    uid: int | None = None
    mark: int | None = None
    output: OutputMark | None = None

    def to_json(self) -> bytes:
        """Return the record as JSON, with `released` and `ready` at fixed offsets."""
        process = self.process
        head = b"%s%d%s%d%s" % (
            _HEAD, self.released, _MIDDLE, self.ready, identity_text(self.identity),
        )  # fmt: skip
        rest = json.dumps(
            {
                "instance_id": self.run.instance_id,
                "agent_class": self.agent_class,
                "number": self.run.number,
                "token": self.token,
                "boot_id": self.identity.boot_id,
                "started_mono": self.started.mono,
                "started_wall": self.started.wall,
                "process": {
                    "argv": process.argv,
                    "source": process.source,
                    "env": process.env,
                    "working_dir": process.working_dir,
                    "user": process.user,
                    "limits": process.limits,
                    "env_files": [[f.path, f.digest, f.optional] for f in process.env_files],
                    "env_inherit": process.env_inherit,
                    "group": process.group,
                    "umask": process.umask,
                    "nice": process.nice,
                    "memory": process.memory,
                },
                "cgroup": self.group and {"path": self.group.path, "inode": self.group.inode},
                "uid": self.uid,
                "mark": self.mark,
                "output": self.output and [self.output.inode, self.output.size],
            }
        ).encode("ascii")
        return head + b", " + rest[1:]

    def noted_start(self) -> tuple[bytes, int]:
        """Return a text for RELEASED_AT, and the number of bytes at its end that become the pid.

        With this text, a process notes that it is about to become the agent.
        """
        return (
            b"1%s%d%s%s" % (_MIDDLE, self.ready, _BEFORE_PID, b" " * _PID_DIGITS),
            _PID_DIGITS,
        )

    @staticmethod
    def from_json(data: bytes) -> Record:
        """Return the record in a JSON text. Raises ValueError with the reason."""
        try:
            fields = json.loads(data)
            if fields["version"] not in (1, VERSION):
                raise ValueError(f"it has version {fields['version']}, not {VERSION}")
            if not int(fields["pid"]) and fields.get("released", True):
                raise ValueError("0 is not a pid")
            return Record(
                run=RunKey(_text(fields["instance_id"]), int(fields["number"])),
                token=_token(fields["token"]),
                identity=Identity(
                    _text(fields["boot_id"]), _pid(fields["pid"]), int(fields["start"]), int(fields["inode"])
                ),
                started=Instant(float(fields["started_mono"]), float(fields["started_wall"])),
                process=_process(fields["process"]),
                agent_class=str(fields.get("agent_class", "")),
                released=bool(fields.get("released", True)),
                ready=bool(fields.get("ready", True)),
                group=_group(fields.get("cgroup")),
                uid=_number(fields.get("uid")),
                mark=_number(fields.get("mark")),
                output=_output(fields.get("output")),
            )
        except (KeyError, TypeError, RecursionError, OverflowError) as error:
            raise ValueError(f"it is not a record: {error!r}") from error


def identity_text(identity: Identity) -> bytes:
    """Return the numbers of a main process as they stand in a record, at IDENTITY_AT."""
    return b'%s%*d, "start": %*d, "inode": %*d' % (
        _BEFORE_PID, _PID_DIGITS, identity.pid, _START_DIGITS, identity.start, _INODE_DIGITS, identity.inode,
    )  # fmt: skip


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is not a text")
    return value


def _token(value: Any) -> str:
    text = _text(value)
    if not text.isascii() or "\0" in text:
        raise ValueError(f"{text!r} is not a marker")
    return text


def _pid(value: Any) -> int:
    pid = int(value)
    if not 0 <= pid <= _LAST_PID:
        raise ValueError(f"{pid} is not a pid")
    return pid


def _number(value: Any) -> int | None:
    return None if value is None else int(value)


def _output(value: Any) -> OutputMark | None:
    if value is None:
        return None
    inode, size = value
    return OutputMark(int(inode), int(size))


def _group(fields: Any) -> Cgroup | None:
    return None if fields is None else Cgroup(_text(fields["path"]), int(fields["inode"]))


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
        # Records of older daemons lack the fields below.
        env_files=tuple(
            EnvFile(_text(path), str(digest), bool(optional))
            for path, digest, optional in fields.get("env_files", ())
        ),
        env_inherit=_patterns(fields.get("env_inherit")),
        group=str(fields.get("group", "")),
        umask=_number(fields.get("umask")),
        nice=_number(fields.get("nice")),
        memory=_number(fields.get("memory")),
    )


def _patterns(value: Any) -> tuple[str, ...] | None:
    return None if value is None else tuple(map(_text, value))
