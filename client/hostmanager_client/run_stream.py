"""The stream of one run of a one-shot. The stream does not reconnect: a run happens once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from google.protobuf.message import Message
from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_client.errors import InvalidRequest, ServerBug, quoted
from hostmanager_client.streams import Stream


class RunStream(Stream[pb.RunResponse]):
    """The output of a run, and its end."""

    method = "Run"
    reconnects = False
    changes = True

    def __init__(self, instance: str, arguments: Iterable[str]) -> None:
        if isinstance(arguments, str):  # otherwise each letter would be an argument
            raise InvalidRequest(
                f"cannot use {quoted(arguments)} as a list of arguments: write [{quoted(arguments)}]"
            )
        self.what = f"run {quoted(instance)}"
        self._request = pb.RunRequest(instance=instance, arguments=tuple(arguments))
        self._complete = False

    def request(self) -> pb.RunRequest:
        """Return the request."""
        return self._request

    def receive(self, message: Message) -> Sequence[pb.RunResponse]:
        """Return the message itself."""
        assert isinstance(message, pb.RunResponse)
        self._complete = message.ended
        return (message,)

    def disconnected(self) -> None:
        """Do nothing, as the stream does not reconnect."""

    def ended(self) -> None:
        """Raise ServerBug unless the end of the run has arrived."""
        if not self._complete:
            raise ServerBug("cannot report how the run ended: the stream ended before the run")
