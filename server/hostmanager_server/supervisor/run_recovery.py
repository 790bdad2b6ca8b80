"""Recovery at the first start of the manager: runs, targets and histories."""

from __future__ import annotations

from hostmanager_server.core.events import Instant
from hostmanager_server.core.recovery import keep_running_if_journal_lost, recover_runs, recover_targets
from hostmanager_server.core.spec import HostSpec
from hostmanager_server.supervisor.errors import AdoptionError
from hostmanager_server.supervisor.persistence import Persistence
from hostmanager_server.supervisor.reconciler import Reconciler


class Recovery:
    """The recovery of an earlier daemon's runs and requests; each step works once."""

    def __init__(self, reconciler: Reconciler, persistence: Persistence) -> None:
        self._reconciler = reconciler
        self._persistence = persistence
        self._lost = persistence.recovered.lost  # until the instances are marked to keep running
        self._recovered_runs = False

    @property
    def recovered_runs(self) -> bool:
        """True once the runs of the earlier daemon are tracked."""
        return self._recovered_runs

    def recover_runs(self, host: HostSpec, now: Instant) -> None:
        """Track the runs of the earlier daemon. Raises AdoptionError.

        Recovery needs the specs of a good config: a run without a spec is retired.
        """
        if self._recovered_runs:
            return
        specs = {spec.instance_id: spec for spec in host.instances}
        try:
            adopted = self._reconciler.driver.adopt(specs)
        except OSError as error:
            raise AdoptionError(error) from error
        self._recovered_runs = True
        self._reconciler.apply(*recover_runs(adopted, specs, self._persistence.recovered, now))

    def recover_targets(self, now: Instant) -> None:
        """Apply the targets and histories of the earlier daemon."""
        recovered = self._persistence.take_recovered()
        self._reconciler.apply(*recover_targets(self._reconciler.instances, recovered, now))

    def keep_running_if_journal_lost(self, now: Instant) -> None:
        """Keep running instances running if their requested targets were lost."""
        if self._lost and self._recovered_runs:
            instances = self._reconciler.instances
            self._reconciler.apply(*keep_running_if_journal_lost(instances, self._lost, now))
            self._lost = ""
