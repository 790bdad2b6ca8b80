"""Attempts of liveness probes, and what each says about the instance."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable
from typing import assert_never

from hostmanager_server.core.events import ExitStatus, Verdict
from hostmanager_server.core.facts import describe
from hostmanager_server.core.spec import CommandProbe, HealthCheckProbe, HttpProbe, LivenessProbe, TcpProbe
from hostmanager_server.drivers.exec import gate
from hostmanager_server.drivers.exec.command import CommandError, ExecCommand
from hostmanager_server.drivers.exec.probe_attempts import try_command, try_http, try_tcp
from hostmanager_server.linux.spawning import Spawner

# Prepares the command of a CommandProbe; raises CommandError. None for other probes.
MakeCommand = Callable[[], ExecCommand | None]

# Errors of the daemon or its host, which say nothing about the instance.
_OWN_ERRORS = (
    errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS, errno.EADDRNOTAVAIL,
)  # fmt: skip
_NOT_RUN = (126, 127)  # exit codes of shells for a command that cannot be executed, or is missing


class LivenessAttempts:
    """The attempts of one probe, on the thread of the probes."""

    def __init__(
        self,
        probe: LivenessProbe,
        make_command: MakeCommand,
        spawner: Spawner | None,
        unreaped: set[int],
    ) -> None:
        self._probe = probe
        self._make_command = make_command
        self._spawner = spawner
        self._unreaped = unreaped
        self._command: ExecCommand | None = None

    async def make(self) -> tuple[Verdict, str] | None:
        """Make one attempt; return its verdict with the reason, or None if the thread was held up."""
        loop = asyncio.get_running_loop()
        began, timeout = loop.time(), self._probe.timeout
        try:
            async with asyncio.timeout(timeout):
                return await self._try()
        except TimeoutError as error:
            if error.errno is not None:  # of the kernel, for a connection
                return Verdict.FAILED, "no answer"
            if loop.time() - began > 2 * timeout + 1:  # the daemon or the machine stood still meanwhile
                return None
            return Verdict.FAILED, f"no answer within {timeout:g} s"
        except CommandError as error:
            return Verdict.UNKNOWN, f"cannot run the probe: {error}"
        except (OSError, ValueError, EOFError, RuntimeError) as error:
            return _verdict_of(error)

    async def _try(self) -> tuple[Verdict, str]:
        match self._probe.check:
            case TcpProbe(host, port):
                return _verdict(await try_tcp(host, port))
            case HttpProbe(url):
                return _verdict(await try_http(url))
            case CommandProbe():
                return await self._try_command()
            case HealthCheckProbe():
                raise AssertionError("the engine runs health checks")
            case other:
                assert_never(other)

    async def _try_command(self) -> tuple[Verdict, str]:
        if self._command is None:  # prepared again while the program is missing
            self._command = await asyncio.to_thread(self._make_command)
        if self._command is None:
            raise AssertionError("a command probe needs its command")
        try:
            status = await try_command(self._command, self._spawner, self._unreaped)
        except TimeoutError:
            raise
        except (CommandError, OSError, ValueError) as error:
            self._command = None
            why = gate.explain(error) if isinstance(error, OSError) else str(error)
            return Verdict.UNKNOWN, f"cannot run the probe: {why}"
        return _verdict_of_status(status)


def _verdict(why: str) -> tuple[Verdict, str]:
    return (Verdict.FAILED, why) if why else (Verdict.ALIVE, "")


def _verdict_of_status(status: ExitStatus) -> tuple[Verdict, str]:
    if status.success:
        return Verdict.ALIVE, ""
    how = f"the probe ended with {describe(status)}"
    return (Verdict.UNKNOWN if status.code in _NOT_RUN else Verdict.FAILED), how


def _verdict_of(error: Exception) -> tuple[Verdict, str]:
    """Return what an error of a connection says: nothing about the instance, or a failure."""
    match error:
        case socket.gaierror():
            return Verdict.UNKNOWN, f"cannot look up the host of the probe: {error.strerror}"
        case ssl.SSLCertVerificationError():
            return Verdict.UNKNOWN, f"cannot trust the certificate: {error.verify_message}"
        case ssl.SSLError():
            return Verdict.FAILED, f"no TLS: {error.reason or error}"
        case OSError() if error.errno in _OWN_ERRORS:
            return Verdict.UNKNOWN, f"cannot run the probe: {gate.explain(error)}"
        case OSError() if error.errno is not None:
            return Verdict.FAILED, os.strerror(error.errno).lower()
        case RuntimeError():  # no thread for a name lookup
            return Verdict.UNKNOWN, f"cannot run the probe: {error}"
        case _:
            return Verdict.FAILED, str(error) or type(error).__name__
