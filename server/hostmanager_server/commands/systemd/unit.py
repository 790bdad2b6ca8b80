"""The text of a systemd unit that runs the daemon.

docs/how-to/systemd.md explains each directive. Quoting follows systemd.syntax(7), and "COMMAND LINES" of
systemd.service(5).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence

from hostmanager.values import dataclass, field

from hostmanager_server.commands.systemd import hardening
from hostmanager_server.drivers.process.records import descriptor_store

MARK = "# Written by `hostmanager systemd install`."

_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "%": "%%"}


class UnitError(Exception):
    """A request that no unit can express; the text gives the reason and a remedy."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit for one daemon.

    `program` is an absolute path, `arguments` follow the program.
    """

    name: str  # without `.service`
    host: str
    program: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = ""  # empty: root, or the owner of a user unit
    of_user: bool = False  # a unit of a user's service manager
    runtime_directory: bool = True  # below /run; systemd creates and keeps the directory
    state_directory: bool = True  # below /var/lib, likewise
    containers: bool = False  # the daemon manages compose services
    environment_files: Sequence[str] = ()  # absolute paths; a file with `-` before its path may be missing
    hardened: bool = False
    writable: Sequence[str] = ()  # absolute paths that a hardened daemon and its agents may write to

    @property
    def file_name(self) -> str:
        """Return the name with `.service`."""
        return f"{self.name}.service"

    def text(self) -> str:
        """Return the text of the whole file.

        Raises UnitError for a path that systemd cannot take.
        """
        sections = {"Unit": self._unit(), "Service": self._service(), "Install": self._install()}
        body = "\n".join(f"[{name}]\n" + "".join(map(_line, lines)) for name, lines in sections.items())
        return f"{MARK}\n\n{body}"

    def _unit(self) -> Iterable[tuple[str, str]]:
        yield "Description", f"HostManager, host {_describable(self.host)}"
        if not self.of_user:
            yield (
                "Wants",
                "network-online.target docker.service" if self.containers else "network-online.target",
            )
            yield "After", "network-online.target docker.service"
        yield "StartLimitIntervalSec", "0"

    def _service(self) -> Iterable[tuple[str, str]]:
        yield "Type", "notify"
        yield "NotifyAccess", "main"
        yield "ExecStart", " ".join([_program(self.program), *map(argument, self.arguments)])
        yield "ExecReload", '/bin/sh -c "kill -HUP ${MAINPID}"'
        for name, value in self.environment.items():
            yield "Environment", quoted(f"{name}={value}")
        for path in self.environment_files:
            yield "EnvironmentFile", _path(path)
        if self.user:
            yield "User", self.user
        yield "KillMode", "process"
        yield "Restart", "always"
        yield "RestartSec", "1s"
        yield "WatchdogSec", "30s"
        yield "TimeoutStartSec", "1min"
        yield "TimeoutStopSec", "1min"
        yield "TimeoutAbortSec", "10s"
        yield "Delegate", "yes"
        yield "OOMPolicy", "continue"
        yield "FileDescriptorStoreMax", str(descriptor_store.MAX_STORED)
        yield "TasksMax", "infinity"
        yield "LimitNOFILE", "1024:524288"
        if self.runtime_directory:
            yield "RuntimeDirectory", self.name
            yield "RuntimeDirectoryMode", "0700"
            yield "RuntimeDirectoryPreserve", "restart"
        if self.state_directory:
            yield "StateDirectory", self.name
            yield "StateDirectoryMode", "0700"
        yield from self._rights()

    def _rights(self) -> Iterable[tuple[str, str]]:
        if self.hardened:
            yield from hardening.hardened(of_user=self.of_user)
            if self.writable and not self.of_user:
                # `-`: the daemon starts even if the folder is missing.
                yield "ReadWritePaths", " ".join(quoted(f"-{path}") for path in self.writable)
        elif not self.of_user:
            yield from hardening.ordinary(of_root=not self.user)

    def _install(self) -> Iterable[tuple[str, str]]:
        yield "WantedBy", "default.target" if self.of_user else "multi-user.target"


def quoted(text: str) -> str:
    """Quote a text as one word, in which systemd finds no special character."""
    escaped = "".join(_ESCAPES.get(char) or _printable(char) for char in text)
    return escaped if _PLAIN.fullmatch(escaped) else f'"{escaped}"'


def argument(text: str) -> str:
    """Quote a text as one word of a command line, without variables."""
    return quoted(text).replace("$", "$$")


def _printable(char: str) -> str:
    if char.isprintable():
        return char
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(char))


def _program(path: str) -> str:
    # systemd replaces variables only in the words after the program.
    if "$" in path:
        raise UnitError(
            f"cannot start {path!r}: systemd takes no '$' in the program's path; link to it from another path"
        )
    return quoted(path)


def _path(path: str) -> str:
    """Escape a path that is a whole setting.

    systemd takes neither quotes nor backslash escapes there.
    """
    if path != path.strip() or any(char in "*?[\\" or not char.isprintable() for char in path):
        raise UnitError(
            f"cannot have systemd read {path!r}: the path ends in a blank, or has one of *?[\\; "
            "rename the file"
        )
    return path.replace("%", "%%")


def _describable(text: str) -> str:
    return "".join(c if c.isprintable() and c != "\\" else "?" for c in text).replace("%", "%%")


def _line(setting: tuple[str, str]) -> str:
    return f"{setting[0]}={setting[1]}\n"
