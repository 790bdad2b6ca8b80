"""The driver of docker compose services."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hostmanager_server.core.catalog import UNCLAIMED, Catalog, Project
from hostmanager_server.core.compose import UNKNOWN_IMAGE, Survey
from hostmanager_server.core.events import Adopted, RunKey, StartFailed
from hostmanager_server.core.model import NOT_YET_OBSERVED
from hostmanager_server.core.spec import InstanceSpec, ServiceSpec
from hostmanager_server.drivers.compose.cli.batches import Work
from hostmanager_server.drivers.compose.cli.process import ComposeCalls
from hostmanager_server.drivers.compose.cli.program import ComposeError
from hostmanager_server.drivers.compose.cli.queue import CallQueue
from hostmanager_server.drivers.compose.engine.container import Container
from hostmanager_server.drivers.compose.engine.contract import EngineListener, EngineWatcher
from hostmanager_server.drivers.compose.files.catalog_reader import CatalogReader
from hostmanager_server.drivers.compose.files.file_watch import FileWatch
from hostmanager_server.drivers.compose.service import FollowedService, Key, differs
from hostmanager_server.drivers.compose.survey import survey
from hostmanager_server.drivers.contract import CallSoon, Poller, PostEvent, ServiceListener
from hostmanager_server.drivers.exec.readiness import Prober


class ComposeDriver:
    """Runs the services of the managed compose files; see `ServiceDriver` for the contract.

    What is comes from the engine's watch, what is wanted from the catalog; compose is called to act.
    `make_watch` is given the listener and the way onto the supervisor's thread.
    """

    def __init__(
        self,
        poller: Poller,
        post: PostEvent,
        call_soon: CallSoon,
        listener: ServiceListener,
        reader: CatalogReader,
        make_watch: Callable[[EngineListener, CallSoon], EngineWatcher],
        calls: ComposeCalls,
    ) -> None:
        self._poller = poller
        self._post = post
        self._listener = listener
        self._reader = reader
        self._files = FileWatch(poller, listener.files_changed)
        self._calls = calls
        self._prober = Prober(call_soon, poller)
        self._watch = make_watch(self, call_soon)
        self._watching = False
        self._dispatcher = CallQueue(poller, self._calls, self._watch.refresh, self._command)
        self._catalog = Catalog()
        self._projects: dict[str, list[Project]] = {}  # by name, which several files may share
        self._services: dict[str, FollowedService] = {}  # by instance id
        self._containers: dict[str, Container] = {}
        self._by_service: dict[Key, dict[str, None]] = {}  # ids of containers
        self._image_ids: Mapping[str, str] = {}
        self._lost = NOT_YET_OBSERVED  # why the engine cannot be asked; empty: it can
        self._survey = Survey()

    # --- ServiceDriver

    def load(self) -> Catalog:
        """See `ServiceDriver.load`."""
        return self._reader.load()

    def manage(self, catalog: Catalog) -> None:
        """See `ServiceDriver.manage`."""
        self._catalog = catalog
        self._projects = {}
        for project in catalog.projects:
            self._projects.setdefault(project.name, []).append(project)
        if self._reader.watch(self._files):
            self._listener.files_changed()
        services = catalog.services.values()
        self._watch.want_images(frozenset(service.image for service in services))
        if not self._watching:
            self._watching = True
            self._watch.start()
        self._take_survey()

    def follow(self, spec: InstanceSpec) -> None:
        """See `Driver.follow`."""
        known = self._services.get(spec.instance_id)
        if spec.service is None:
            self._drop(spec.instance_id)
            return
        if known is not None and _same_tracker(known.spec, spec):
            known.now_is(spec, spec.service)
        else:
            self._drop(spec.instance_id)
            known = FollowedService(spec, self._post, self._poller.now, self._begin_probe)
            self._services[spec.instance_id] = known
        if self._lost:
            known.out_of_sight(self._lost)
        else:
            self._look(known)
        self._take_survey()

    def forget(self, spec: InstanceSpec) -> None:
        """See `Driver.forget`."""
        self._drop(spec.instance_id)
        self._take_survey()

    def launch(self, run: RunKey, spec: InstanceSpec) -> None:
        """See `Driver.launch`."""
        service = self._services.get(run.instance_id)
        if service is None:
            why = spec.problem or "it has no compose service"
            self._post(StartFailed(run, f"cannot start {run.instance_id!r}: {why}", self._poller.now()))
        elif self._lost:
            service.refused(run, self._lost)
        elif service.run not in (None, run):
            service.refused(run, "its last run is still there; stop that first")
        else:
            work = Work.MEND if service.run == run else Work.UP
            service.launched(run)
            if self._in_the_way(service.wanted):
                self._dispatcher.ask(Work.CLEAR, service)
            self._dispatcher.ask(work, service)

    def stop(self, run: RunKey, signum: int, whole_tree: bool) -> None:
        """See `Driver.stop`. The compose file says which signal comes first, and when KILL follows."""
        service = self._services.get(run.instance_id)
        if service is not None and service.run is None and service.restarting:
            service.about_to_restart(run)
        if service is None or service.run != run or service.stopping:
            return
        if self._dispatcher.withdraw(service) and service.waits_for_compose:
            service.refused(run, "stopped before it was begun")
        else:
            service.stopping = True
            self._dispatcher.ask(Work.REMOVE, service)

    def adopt(self, specs: Mapping[str, InstanceSpec]) -> list[Adopted]:
        """See `Driver.adopt`. Services are found by `follow`, whoever started them."""
        return []

    def disown(self) -> None:
        """See `Driver.disown`."""
        for service in self._services.values():
            service.close()
        self._services.clear()
        self._dispatcher.clear()
        self._files.close()
        self._watch.close()

    def close(self) -> None:
        """See `Driver.close`. Calls under way are ended."""
        self.disown()
        self._calls.close()
        self._prober.close()

    # --- EngineListener

    def synced(self, containers: Sequence[Container], images: Mapping[str, str]) -> None:
        """In touch with the engine; this is all there is."""
        self._lost = ""
        self._containers = {}
        self._by_service = {}
        for container in containers:
            self._put(container)
        self._image_ids = images
        for service in list(self._services.values()):
            self._look(service)
        self._take_survey()

    def changed(self, container: Container) -> None:
        """The newest facts of one container."""
        self._put(container)
        self._look_at((container.project, container.service))

    def gone(self, container_id: str) -> None:
        """A container was removed."""
        container = self._containers.pop(container_id, None)
        if container is not None:
            key = (container.project, container.service)
            self._by_service[key].pop(container_id, None)
            self._look_at(key)

    def images(self, ids: Mapping[str, str]) -> None:
        """Image tags mean something else than before."""
        self._image_ids = ids
        if not self._lost:
            for service in list(self._services.values()):
                self._look(service)
            self._take_survey()

    def lost(self, why: str) -> None:
        """The engine cannot be asked."""
        self._lost = why
        for service in list(self._services.values()):
            service.out_of_sight(why)
        self._take_survey()

    # --- what others ask of it

    def is_orphan(self, container_id: str) -> bool:
        """Whether the container is an orphan as far as is known now."""
        return container_id in self._survey.orphans

    # --- facts

    def _put(self, container: Container) -> None:
        self._containers[container.id] = container
        self._by_service.setdefault((container.project, container.service), {})[container.id] = None

    def _of(self, key: Key) -> list[Container]:
        return [self._containers[container_id] for container_id in self._by_service.get(key, ())]

    def _look_at(self, key: Key) -> None:
        if self._lost:  # `synced` is to come
            return
        for service in list(self._services.values()):
            if service.key == key:
                self._look(service)
        self._take_survey()

    def _look(self, service: FollowedService) -> None:
        service.look(self._of(service.key), self._image_ids.get(service.wanted.image, UNKNOWN_IMAGE))

    def _drop(self, instance_id: str) -> None:
        service = self._services.pop(instance_id, None)
        if service is not None:
            service.close()
            self._dispatcher.withdraw(service)

    def _take_survey(self) -> None:
        problem = "" if self._lost == NOT_YET_OBSERVED else self._lost
        if self._lost:
            now = Survey(problem=problem)
        else:
            now = survey(self._projects, self._services.values(), self._containers.values(), self._image_ids)
        if now != self._survey:
            self._survey = now
            self._listener.surveyed(now)

    def _begin_probe(self, spec: InstanceSpec, ready: Callable[[], None]) -> Callable[[], None]:
        assert spec.ready is not None
        return self._prober.start(spec.ready, None, ready)

    # --- calls of compose

    def _command(self, work: Work, services: Sequence[FollowedService]) -> list[str]:
        """What to call compose with, for services of the same files. Raises ComposeError."""
        program = self._reader.program
        if program is None:  # it was there when the files were read
            raise ComposeError(self._reader.program_problem)
        if work is not Work.REMOVE:  # a stop has to work; it executes nothing that the files say
            self._reader.check()
        wanted = [service.wanted for service in services]
        names = [each.service for each in wanted]
        if work is Work.REMOVE:
            args = ["rm", "--stop", "--force", *names]
        elif work is Work.CLEAR:
            stuck = set().union(*(self._in_the_way(each) for each in wanted))
            args = ["rm", "--force", *(sorted(stuck) or names)]  # with no name it would be the whole project
        else:
            options = ["--detach"]
            # Compose would make anew what runs and what these depend on, had its definition changed. (With
            # --no-deps it would not, but put another hash on the container than `config` tells.)
            if work is Work.MEND or not any(self._leftover_differs(service) for service in services):
                options.append("--no-recreate")
            args = ["up", *options, *names]
        return program.command(wanted[0].files, wanted[0].project, *args, all_profiles=True)

    def _in_the_way(self, wanted: ServiceSpec) -> set[str]:
        """The services, itself or what it depends on, with a container that must go before it can start. Not
        those with a paused one: `rm` of compose before 2.17.3 takes that for one that does not run."""
        found = set()
        for name in self._catalog.started_with(wanted):
            containers = self._of((wanted.project, name))
            if any(c.unstartable for c in containers) and not any(c.status == "paused" for c in containers):
                found.add(name)
        return found

    def _leftover_differs(self, service: FollowedService) -> bool:
        """Whether a container that has ended is to be made anew rather than started again."""
        image_id = self._image_ids.get(service.wanted.image, UNKNOWN_IMAGE)
        return any(differs(service.wanted, c, image_id) for c in service.containers if not c.running)


def _same_tracker(old: InstanceSpec, new: InstanceSpec) -> bool:
    """Whether an instance goes on with its service. Not so when the site config begins or ceases to name it:
    the core then takes the service over as it runs, in a fresh instance that may have the same name."""
    assert old.service is not None
    assert new.service is not None
    unclaimed = old.agent_class == UNCLAIMED
    return _key(old.service) == _key(new.service) and unclaimed is (new.agent_class == UNCLAIMED)


def _key(service: ServiceSpec) -> Key:
    return service.project, service.service
