"""Settings of the daemon at its start."""

from __future__ import annotations

from pathlib import Path

from hostmanager.values import dataclass, field

from hostmanager_server.config.manager_options import ManagerOptions, PersistTargets
from hostmanager_server.config.reload import RepeatedLoad
from hostmanager_server.core.spec import Target
from hostmanager_server.drivers.process.cgroup_delegation import AUTO
from hostmanager_server.linux.trusted_paths import Trust
from hostmanager_server.rpc.server import Limits, ListenAddress


@dataclass(frozen=True, slots=True)
class ComposeSettings:
    """Compose files, service prefix and compose program; CatalogReader describes them."""

    files: tuple[str, ...]
    prefix: str = "ocs-"
    program: str = ""


@dataclass(frozen=True, slots=True)
class DaemonSettings:
    """Settings of a daemon; the flags of `hostmanager serve` describe them."""

    site_file: Path
    state_dir: Path
    listen: tuple[ListenAddress, ...]
    host: str | None = None  # None: this machine's name, else `localhost`
    working_dir: Path = field(default_factory=Path.cwd)
    initial_state: Target | None = None  # None: the targets of the config
    persist: PersistTargets = PersistTargets.CRASH
    tcp_reflection: bool = False
    compose: ComposeSettings | None = None  # None: the daemon manages no compose files
    options: ManagerOptions = field(default_factory=ManagerOptions)  # of the HostManager entry
    limits: Limits = field(default_factory=Limits)
    cgroup: str = AUTO  # find_groups describes the values
    trust: Trust = field(default_factory=Trust.of_this_process)
    strict: bool = False  # use no site config with errors, not even the entries without errors
    # The options above come from a reading of the site config; the daemon's first reading need not repeat it.
    site: RepeatedLoad = field(default_factory=RepeatedLoad, compare=False, repr=False)
