"""The site config file of this daemon, read whenever it is asked to reload."""

from __future__ import annotations

from dataclasses import replace

from hostmanager_server.config.last_good import LastGood
from hostmanager_server.config.load import LoadedConfig, load_site_config
from hostmanager_server.core.event_log import Severity
from hostmanager_server.core.manager_status import Problem
from hostmanager_server.daemon.settings import DaemonSettings
from hostmanager_server.supervisor import SiteConfig


class SiteFile:
    """Used on one thread at a time."""

    def __init__(self, settings: DaemonSettings) -> None:
        self._settings = settings
        self._last_good = LastGood(settings.state_dir)
        self._taken = False

    def load(self) -> LoadedConfig:
        """What it says now."""
        settings = self._settings
        # Once anything was in force, a file with errors changes nothing; until then, it may have been before.
        load = load_site_config if self._taken else self._last_good.load
        config = load(
            settings.site_file, host=settings.host, working_dir=settings.working_dir, trust=settings.trust
        )
        if not config.ok or config.options == settings.options:
            return config
        text = "the arguments of the HostManager entry have changed: start the daemon again to heed them"
        return replace(config, problems=(*config.problems, Problem(Severity.WARNING, text, config.file)))

    def keep(self, config: SiteConfig) -> None:
        """This, which was loaded, is in force now."""
        assert isinstance(config, LoadedConfig)
        self._taken = True
        self._last_good.keep(config)
