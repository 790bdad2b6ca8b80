"""Checks of a host's instances against this machine, for `hostmanager config check`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from hostmanager.values import replace

from hostmanager_server.config.places import Places
from hostmanager_server.core.event_log import Severity
from hostmanager_server.core.manager_status import Problem
from hostmanager_server.core.spec import (
    CommandProbe,
    EnvFile,
    HostSpec,
    HttpProbe,
    InstanceSpec,
    ProcessSpec,
    ReadinessProbe,
    TcpProbe,
)
from hostmanager_server.drivers.exec import command, direct
from hostmanager_server.drivers.exec.agent_user import AccountError, find_group, find_user
from hostmanager_server.drivers.exec.command import CommandError
from hostmanager_server.linux.listeners import holders_of, listening_sockets

_LOOPBACK = ("localhost", "127.0.0.1", "::1", "0.0.0.0", "::", "")  # noqa: S104 - compared, not listened on
_MARKER = command.INSTANCE_MARKER.encode()


class MachineChecks:
    """Looks for users, programs, folders and ports that the instances of a host need on this machine."""

    def __init__(self, places: Places, environ: Mapping[str, str], severity: Severity) -> None:
        self._places = places
        self._environ = environ  # the inherited environment of agents
        self._severity = severity
        self._listening: dict[int, set[str]] | None = None

    def problems(self, host: HostSpec) -> Iterator[Problem]:
        """Yield what keeps instances from working on this machine, with the places in the site config."""
        yield from self._log_directory(host)
        ocs = [s for s in host.instances if s.process is not None and s.process.source == "ocs"]
        if ocs and (missing := self._places.missing_in_hub()):
            names = ", ".join(missing)
            text = (
                f"agents of OCS, such as {ocs[0].instance_id!r}, need {names} in 'hub' to find their router"
            )
            yield self._problem(text, self._places.of_hub())
        for spec in host.instances:
            if spec.process is None or spec.problem:
                continue
            for key, why in self._of_process(spec, spec.process):
                text = f"instance {spec.instance_id!r} cannot start: {why}"
                yield self._problem(text, self._places.of(spec.instance_id, key))
            if spec.ready is not None and (why := self._port_in_use(spec, spec.ready)):
                text = f"instance {spec.instance_id!r}: {why}"
                yield self._problem(text, self._places.of(spec.instance_id, "ready"))

    def _problem(self, text: str, place: tuple[str, int, int]) -> Problem:
        return Problem(self._severity, text, *place)

    def _of_process(self, spec: InstanceSpec, process: ProcessSpec) -> Iterator[tuple[str, str]]:
        """Yield the keys and the reasons of all problems of a native process."""
        found = [*_accounts(process), *_folder(process)]
        yield from found
        # Whether the daemon may switch the user depends on its own user, not on that of this check.
        plain = replace(process, user="", group="", env_files=_readable(process))
        if any(key == "working-dir" for key, _ in found):
            plain = replace(plain, working_dir="/")
            if "/" in process.argv[0] and not process.argv[0].startswith("/"):
                return  # the program's path starts at the missing folder
        try:
            direct.check_executable(command.prepare(plain, plain.argv, self._environ))
        except CommandError as error:
            yield "command", str(error)
            return
        if spec.ready is not None and isinstance(spec.ready.check, CommandProbe):
            try:
                direct.check_executable(command.prepare(plain, spec.ready.check.argv, self._environ))
            except CommandError as error:
                yield "ready", f"its readiness command: {error}"

    def _log_directory(self, host: HostSpec) -> Iterator[Problem]:
        for directory in dict.fromkeys(spec.log.directory for spec in host.instances if spec.log.directory):
            if why := _why_not_writable(Path(directory)):
                yield self._problem(
                    f"the log directory {directory!r} {why}; correct 'log-dir', or the folder",
                    self._places.of_log_directory(),
                )

    def _port_in_use(self, spec: InstanceSpec, ready: ReadinessProbe) -> str:
        """Return which foreign process listens on the port that the probe asks, if any."""
        match ready.check:
            case TcpProbe(host, port):
                pass
            case HttpProbe(url):
                parts = urlsplit(url)
                host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
            case _:
                return ""
        if host not in _LOOPBACK:
            return ""
        if self._listening is None:
            self._listening = listening_sockets()
        inodes = self._listening.get(port)
        if not inodes:
            return ""
        own = b"%s=%s" % (_MARKER, os.fsencode(spec.instance_id))
        holders = holders_of(inodes)
        if any(own in holder.environ.split(b"\0") for holder in holders):
            return ""  # the running agent
        known = next((f" by {each.name!r} (pid {each.pid})" for each in holders), "")
        return (
            f"port {port} of its probe is in use{known}, which would answer in its place; "
            "end that program, or correct 'ready'"
        )


def _accounts(process: ProcessSpec) -> Iterator[tuple[str, str]]:
    for key, name, find in (("user", process.user, find_user), ("group", process.group, find_group)):
        try:
            if name:
                find(name)
        except AccountError as error:
            yield key, str(error)


def _folder(process: ProcessSpec) -> Iterator[tuple[str, str]]:
    folder = os.path.abspath(process.working_dir)
    if not os.path.isdir(folder):
        what = "is no folder" if os.path.exists(folder) else "does not exist"
        yield "working-dir", f"its working directory '{folder}' {what}; create it or change 'working-dir'"
    elif not os.access(folder, os.X_OK):
        yield "working-dir", f"its working directory '{folder}' cannot be entered; change its mode"


def _readable(process: ProcessSpec) -> tuple[EnvFile, ...]:
    """Return the env-files that the loader could read; it has reported the others."""
    return tuple(file for file in process.env_files if file.digest)


def _why_not_writable(directory: Path) -> str:
    """Return why the daemon could not write files to a directory that exists or that it would make."""
    if directory.exists() and not directory.is_dir():
        return "is no directory"
    there = next(each for each in (directory, *directory.parents) if each.exists())
    if not there.is_dir():
        return f"cannot be made: '{there}' is no directory"
    if not os.access(there, os.W_OK | os.X_OK):
        return "may not be written" if there == directory else f"cannot be made: '{there}' may not be written"
    return ""
