"""Requests that the screen sends for an instance: up, down, restart."""

from __future__ import annotations

import threading
from collections.abc import Callable

from hostmanager.values import dataclass

from hostmanager_client.calls import DOWN, UP
from hostmanager_client.cli.escape import one_line
from hostmanager_client.cli.failure import error_lines
from hostmanager_client.errors import HostManagerError
from hostmanager_client.sync import HostManagerClient


@dataclass(frozen=True, slots=True)
class Request:
    """A change of one instance: `question` for the operator, `done` after the answer of the daemon."""

    question: str
    done: str
    send: Callable[[HostManagerClient], object]


def request_for(key: str, instance_id: str) -> Request | None:
    """Return the request of a key; None for a key of another meaning."""
    name = one_line(instance_id)
    match key:
        case "u":
            return Request(f"Set the target of {name} to up?", f"{name}: target up",
                           lambda client: client.update([(instance_id, UP)]))  # fmt: skip
        case "d":
            return Request(f"Set the target of {name} to down, which stops it?", f"{name}: target down",
                           lambda client: client.update([(instance_id, DOWN)]))  # fmt: skip
        case "r":
            return Request(f"Restart {name}?", f"{name}: restarting",
                           lambda client: client.restart([instance_id]))  # fmt: skip
    return None


def send(client: HostManagerClient, request: Request, answer: Callable[[str, bool], None]) -> None:
    """Send a request on another thread; call `answer` there with the outcome, and whether it is an error."""

    def work() -> None:
        try:
            request.send(client)
        except HostManagerError as error:
            answer("; ".join(error_lines(error)), True)
        else:
            answer(request.done, False)

    threading.Thread(target=work, name="hostmanager-request", daemon=True).start()
