"""Construction of the compose driver and the access to the Docker Engine.

Imports of the Docker SDK stand inside the functions: a host without containers need not spend the tenth of a
second that they take.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from hostmanager_server.daemon.settings import ComposeSettings
from hostmanager_server.drivers.contract import CallSoon, Poller, PostEvent, ServiceDriver, ServiceListener
from hostmanager_server.drivers.exec.command import inherited_environment
from hostmanager_server.drivers.exec.liveness import LastAnswers
from hostmanager_server.linux.trusted_paths import Trust
from hostmanager_server.supervisor import MakeServiceDriver

if TYPE_CHECKING:
    from hostmanager_server.drivers.compose.access import EngineAccess


def service_driver(
    compose: ComposeSettings, working_dir: Path, trust: Trust, answers: LastAnswers
) -> MakeServiceDriver:
    """Return the factory of the driver of compose services.

    `answers` receives the answers of liveness probes.
    """
    from hostmanager_server.drivers.compose.cli.process import ComposeCalls
    from hostmanager_server.drivers.compose.driver import ComposeDriver
    from hostmanager_server.drivers.compose.engine.connection import connect, new_connection
    from hostmanager_server.drivers.compose.engine.container_actions import EngineActions
    from hostmanager_server.drivers.compose.engine.watch import EngineListener, EngineWatch
    from hostmanager_server.drivers.compose.files.catalog_reader import CatalogReader

    environ = inherited_environment(os.environ)
    reader = CatalogReader(
        compose.files, prefix=compose.prefix, program=compose.program,
        working_dir=working_dir, environ=environ, trust=trust,
    )  # fmt: skip

    def make(
        poller: Poller, post: PostEvent, call_soon: CallSoon, listener: ServiceListener
    ) -> ServiceDriver:
        def watch(engine_listener: EngineListener, soon: CallSoon) -> EngineWatch:
            return EngineWatch(new_connection, engine_listener, soon)

        calls = ComposeCalls(call_soon, environ)
        actions = EngineActions(connect, call_soon)
        return ComposeDriver(poller, post, call_soon, listener, reader, watch, calls, actions, answers)

    return make


def engine_access() -> EngineAccess:
    """Return the part of the Docker Engine that clients may use."""
    from hostmanager_server.drivers.compose.access import EngineAccess
    from hostmanager_server.drivers.compose.engine.connection import connect

    return EngineAccess(connect)
