"""The site config file of a daemon, read at the start and at each reload."""

from __future__ import annotations

from hostmanager.values import replace

from hostmanager_server.config.last_good import LastGood
from hostmanager_server.config.load import LoadedConfig
from hostmanager_server.core.event_log import Severity
from hostmanager_server.core.manager_status import Problem
from hostmanager_server.daemon.settings import DaemonSettings
from hostmanager_server.supervisor import SiteConfig


class SiteFile:
    """Loads the site config file. One thread at a time may use an object."""

    def __init__(self, settings: DaemonSettings) -> None:
        self._settings = settings
        self._reader = settings.site
        self._last_good = LastGood(settings.state_dir)
        self._in_force = False

    def load(self) -> LoadedConfig:
        """Return the present content of the file."""
        settings = self._settings
        # Once a config is in force, a file with errors changes nothing. Until then, the copy that an earlier
        # daemon kept takes the place of a file with errors, and without a copy, the entries without errors.
        file, host, folder = settings.site_file, settings.host, settings.working_dir
        config = self._reader.load(file, host=host, working_dir=folder, trust=settings.trust)
        if not self._in_force:
            config = self._last_good.in_place_of(config, file, host=host, working_dir=folder)
            if not settings.strict:
                config = config.without_bad_entries()
        if not config.ok or config.options == settings.options:
            return config
        text = "the arguments of the HostManager entry have changed: start the daemon again to apply them"
        return replace(config, problems=(*config.problems, Problem(Severity.WARNING, text, config.file)))

    def keep(self, config: SiteConfig) -> None:
        """Note that a loaded config is in force now, and keep a copy for the next daemon."""
        assert isinstance(config, LoadedConfig)
        self._in_force = True
        self._last_good.keep(config)
