"""Docker Engine functions for clients: logs, image pulls, removal of orphans."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import requests
from docker.errors import DockerException

from hostmanager_server.drivers.compose.engine.connection import Connection, explain
from hostmanager_server.drivers.compose.logs.demultiplexer import OutputLine
from hostmanager_server.drivers.compose.logs.reader import read_logs
from hostmanager_server.drivers.compose.orphans import ContainerRemover
from hostmanager_server.drivers.compose.pull.progress import PullItem
from hostmanager_server.drivers.compose.pull.pull import ImagePull, PullEnded
from hostmanager_server.drivers.compose.pull.puller import Puller
from hostmanager_server.drivers.output.wanted_lines import WantedLines
from hostmanager_server.linux.thread_names import name_this_thread

_LOG_THREADS = 16


class EngineAccess:
    """The engine's functions for clients, apart from the driven services.

    Methods are thread-safe, and block unless their docstring says otherwise.
    """

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._puller = Puller(connect)
        self._remover = ContainerRemover(connect)
        # An engine that does not answer blocks these threads, and nothing else.
        self._log_threads = ThreadPoolExecutor(_LOG_THREADS, "hm-logs", name_this_thread, ("hm-logs",))

    def problem(self) -> str:
        """Return why the engine cannot be used; empty when usable."""
        try:
            self._connect().close()
        except (DockerException, requests.RequestException, OSError) as error:
            return explain(error)
        return ""

    @property
    def pulling(self) -> bool:
        """Whether a pull runs that callers can join. Returns at once."""
        return self._puller.running()

    def join_pull(
        self, items: Sequence[PullItem], *, detach: bool, progress_timeout: float, ended: PullEnded
    ) -> tuple[ImagePull, bool]:
        """See Puller.join. Returns at once."""
        return self._puller.join(items, detach=detach, progress_timeout=progress_timeout, ended=ended)

    async def remove_container(
        self, container_id: str, stop_timeout: float, is_orphan: Callable[[], bool]
    ) -> str:
        """See ContainerRemover.remove."""
        return await self._remover.remove(container_id, stop_timeout, is_orphan)

    def read_logs(
        self, containers: AsyncIterator[Sequence[str]], wanted: WantedLines
    ) -> AsyncGenerator[list[OutputLine], None]:
        """See logs.reader.read_logs. Iterate on an event loop."""
        return read_logs(self._connect, containers, wanted, threads=self._log_threads)

    def close(self) -> None:
        """Stop running pulls and removals; block until they have ended."""
        self._puller.close()
        self._remover.close()
        self._log_threads.shutdown(wait=False, cancel_futures=True)
