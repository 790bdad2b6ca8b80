"""A client for plain unary calls over a unix socket."""

from __future__ import annotations

import os
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM
from _socket import socket as Socket  # noqa: N812 -- the module `socket` takes as long to load as a call
from time import monotonic

from hostmanager_client.address import Address
from hostmanager_client.calls import UnaryCall
from hostmanager_client.errors import HostManagerError
from hostmanager_client.identity import caller_metadata
from hostmanager_client.light.http2 import Answer, LightConnection, Surprise
from hostmanager_client.light.protobuf_codec import MalformedError, decode, encode
from hostmanager_client.plain_calls import PlainCalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_PACKAGE = "hostmanager.v1"
_SERVICE = f"/{_PACKAGE}.HostManagerService"
# The share of the timeout, and the time in s, for the daemon to accept the connection; then the full client
# tries, which waits longer and knows the causes.
_PATIENCE_SHARE = 0.2
_PATIENCE = 1.0
_LARGEST_READ = 256 * 1024
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~")


class FullClientNeeded(Exception):  # noqa: N818 -- no error
    """The full client must make this call; the daemon has not carried out the call."""


class LightClient(PlainCalls):
    """The unary calls of HostManagerClient, in one thread, over a unix socket.

    The methods raise the errors of HostManagerClient, or FullClientNeeded if the call must be repeated with
    that client. A call that changes something is never repeated unless the daemon did not process it.
    """

    def __init__(self, address: Address, timeout: float | None = None) -> None:
        self.address = address
        self._timeout = timeout
        self._socket: Socket | None = None
        self._connection = LightConnection()

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()

    # --- IO

    def _call(self, call: UnaryCall[Any]) -> Any:
        deadline = monotonic() + (self._timeout or call.timeout)
        try:
            request = encode(f"{_PACKAGE}.{call.method}Request", call.request)
            connection = self._connect(deadline)
            path, left = f"{_SERVICE}/{call.method}", deadline - monotonic()
            metadata = caller_metadata() if call.changes else ()
            data = self._connection.request(path, _authority(self.address), request, left, metadata)
        except (OSError, Surprise, UnicodeEncodeError) as error:
            raise FullClientNeeded(str(error)) from error
        try:
            answer = self._exchange(connection, data, deadline)
        except TimeoutError as error:
            raise self._error(call, "DEADLINE_EXCEEDED", "", ()) from error
        except (OSError, Surprise) as error:
            if not call.changes or (isinstance(error, Surprise) and error.untouched):
                raise FullClientNeeded(str(error)) from error
            raise self._error(call, "UNAVAILABLE", "Socket closed", ()) from error
        return self._message(call, answer)

    def _connect(self, deadline: float) -> Socket:
        """Return a connection on which the daemon has answered; raise OSError or Surprise."""
        if self._socket is None:
            left = deadline - monotonic()
            patience = monotonic() + min(_PATIENCE, left * _PATIENCE_SHARE)
            self._socket = Socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
            self._socket.settimeout(max(0.001, patience - monotonic()))
            self._socket.connect(self.address.path)
            self._socket.sendall(self._connection.open())
            while not self._connection.ready:
                self._socket.sendall(self._connection.receive(self._receive(self._socket, patience)))
        return self._socket

    def _exchange(self, connection: Socket, data: bytes, deadline: float) -> Answer:
        connection.settimeout(max(0.001, deadline - monotonic()))
        connection.sendall(data)
        while (answer := self._connection.answer) is None:
            if reply := self._connection.receive(self._receive(connection, deadline)):
                connection.sendall(reply)
        return answer

    def _receive(self, connection: Socket, deadline: float) -> bytes:
        connection.settimeout(max(0.001, deadline - monotonic()))
        data = connection.recv(_LARGEST_READ)
        if monotonic() >= deadline:  # a peer that sends for ever
            raise TimeoutError
        if not data:
            raise ConnectionResetError("the daemon closed the connection")
        return data

    def _message(self, call: UnaryCall[Any], answer: Answer) -> Any:
        if answer.status == 0:
            try:
                return decode(f"{_PACKAGE}.{call.method}Response", answer.message)
            except MalformedError as error:
                if not call.changes:
                    raise FullClientNeeded(str(error)) from error
                raise self._error(call, "INTERNAL", "Exception deserializing response!", ()) from error
        from hostmanager_client.errors import Unreachable
        from hostmanager_client.rpc_errors import CODE_NAMES, DETAILS_KEY

        trailers = [(DETAILS_KEY, _bytes(v)) for k, v in answer.trailers if k == DETAILS_KEY.encode()]
        code = CODE_NAMES.get(answer.status, "UNKNOWN")
        failure = self._error(call, code, answer.text, trailers)
        if isinstance(failure, Unreachable) and failure.patience and not (call.changes and failure.sent):
            raise FullClientNeeded(str(failure))  # the full client repeats the call for some time
        raise failure

    def _error(
        self, call: UnaryCall[Any], code: str, text: str, trailers: Iterable[tuple[str, bytes]]
    ) -> HostManagerError:
        from hostmanager_client.rpc_errors import make_error

        return make_error(code, text, trailers, call.what, self.address, changes=call.changes)


def _authority(address: Address) -> str:
    """Return the authority that gRPC sends for a unix socket."""
    path = os.fsencode(address.path.removeprefix("/"))
    return "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in path)


def _bytes(value: bytes) -> bytes:
    """Return the bytes of a binary header, which has the form of base64; empty if malformed."""
    from binascii import Error, a2b_base64

    try:
        return a2b_base64(value + b"=" * (-len(value) % 4))
    except Error:
        return b""
