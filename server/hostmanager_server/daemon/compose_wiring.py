"""What a daemon with compose files is built of beside the rest."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from hostmanager_server.daemon.settings import ComposeSettings
from hostmanager_server.drivers.contract import Poller, PostEvent, ServiceDriver, ServiceListener
from hostmanager_server.drivers.exec.command import inherited_environment
from hostmanager_server.linux.trusted_paths import Trust
from hostmanager_server.supervisor import CallSoon, MakeServiceDriver

if TYPE_CHECKING:
    from hostmanager_server.drivers.compose.access import EngineAccess


def service_driver(compose: ComposeSettings, working_dir: Path, trust: Trust) -> MakeServiceDriver:
    """Makes the driver of compose services."""
    # The SDK takes a tenth of a second to import, which a host without containers need not pay.
    from hostmanager_server.drivers.compose.cli.process import ComposeCalls
    from hostmanager_server.drivers.compose.driver import ComposeDriver
    from hostmanager_server.drivers.compose.engine.connection import dial
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
        def watch(told: EngineListener, soon: CallSoon) -> EngineWatch:
            return EngineWatch(dial, told, soon)

        calls = ComposeCalls(call_soon, environ)
        return ComposeDriver(poller, post, call_soon, listener, reader, watch, calls)

    return make


def engine_access() -> EngineAccess:
    """The docker engine, as far as clients may use it."""
    from hostmanager_server.drivers.compose.access import EngineAccess
    from hostmanager_server.drivers.compose.engine.connection import connect

    return EngineAccess(connect)
