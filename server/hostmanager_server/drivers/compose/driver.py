"""The driver of docker compose services.

The driver compares two sources: the engine watch says what runs, the catalog says what the compose files
define. Compose is called only to start, stop and remove containers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from hostmanager_server.core.catalog import Catalog, Project
from hostmanager_server.core.compose import UNKNOWN_IMAGE, Survey
from hostmanager_server.core.events import Adopted, RunKey, StartFailed
from hostmanager_server.core.model import NOT_YET_OBSERVED
from hostmanager_server.core.spec import InstanceSpec, ServiceSpec
from hostmanager_server.drivers.compose.cli.creates import CreateQueue
from hostmanager_server.drivers.compose.cli.process import ComposeCalls
from hostmanager_server.drivers.compose.cli.program import ComposeError
from hostmanager_server.drivers.compose.cli.stops import StopQueue
from hostmanager_server.drivers.compose.engine.container import Container
from hostmanager_server.drivers.compose.engine.contract import EngineListener, EngineWatcher
from hostmanager_server.drivers.compose.files.catalog_reader import CatalogReader
from hostmanager_server.drivers.compose.files.file_watch import FileWatch
from hostmanager_server.drivers.compose.followed_service import FollowedService
from hostmanager_server.drivers.compose.service_containers import Key, ServiceContainers
from hostmanager_server.drivers.compose.starts.start_facts import Actions
from hostmanager_server.drivers.compose.starts.starter import Starter
from hostmanager_server.drivers.compose.starts.users import ServiceUsers, used_containers
from hostmanager_server.drivers.compose.survey import take_survey
from hostmanager_server.drivers.compose.tracking import no_command, same_tracker
from hostmanager_server.drivers.contract import CallSoon, Done, Poller, PostEvent, ServiceListener
from hostmanager_server.drivers.exec.liveness import LastAnswers, LivenessWatch
from hostmanager_server.drivers.exec.readiness import Prober


class ComposeDriver:
    """The services of the managed compose files; see `ServiceDriver` for the contract.

    `make_watch` gets the listener and the way to run a callback on the supervisor thread. `answers` receives
    the answers of liveness probes.
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
        actions: Actions,
        answers: LastAnswers | None = None,
    ) -> None:
        self._poller = poller
        self._post = post
        self._listener = listener
        self._reader = reader
        self._files = FileWatch(poller, listener.files_changed)
        self._calls = calls
        self._prober = Prober(call_soon, poller)
        self._liveness = LivenessWatch(self._prober, post, call_soon, poller.now, answers or LastAnswers())
        self._watch = make_watch(self, call_soon)
        self._watching = False
        refresh = self._watch.refresh
        self._stops = StopQueue(poller, calls, refresh, self._stop_command, self._stop_ended)
        creates = CreateQueue(poller, calls, refresh, self._create_command)
        self._actions = actions
        self._starter = Starter(poller, calls, creates, actions, self, refresh, self._start_command)
        self._users = ServiceUsers()
        self._catalog = Catalog()
        self._projects: dict[str, list[Project]] = {}  # by name, which several files may share
        self._services: dict[str, FollowedService] = {}  # by instance id
        self._containers = ServiceContainers()
        self._image_ids: Mapping[str, str] = {}
        self._engine_problem = NOT_YET_OBSERVED  # why the engine cannot be used; empty: usable
        self._wanted_projects: frozenset[str] = frozenset()
        self._observed_projects: frozenset[str] = frozenset()
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
        self._watch.watch_images(frozenset(service.image for service in services))
        self._watch_projects()
        if not self._watching:
            self._watching = True
            self._watch.start()
        self._starter.redefine()
        self._update_survey()

    def follow(self, spec: InstanceSpec) -> None:
        """See `Driver.follow`."""
        followed = self._services.get(spec.instance_id)
        if spec.service is None:
            self._unfollow(spec.instance_id)
            return
        if followed is not None and same_tracker(followed.spec, spec):
            followed.respecify(spec, spec.service)
        else:
            self._unfollow(spec.instance_id)
            followed = FollowedService(spec, self._post, self._poller.now, self._begin_probe)
            self._services[spec.instance_id] = followed
            self._watch_projects()
        self._update(followed)
        self._update_survey()

    def forget(self, spec: InstanceSpec) -> None:
        """See `Driver.forget`."""
        self._unfollow(spec.instance_id)
        self._update_survey()

    def launch(self, run: RunKey, spec: InstanceSpec) -> None:
        """See `Driver.launch`."""
        service = self._services.get(run.instance_id)
        if service is None:
            why = spec.problem or "the instance has no compose service"
            self._post(StartFailed(run, f"cannot start {run.instance_id!r}: {why}", self._poller.now()))
        elif problem := self._problem_of(service):
            service.fail_launch(run, problem)
        elif service.run not in (None, run):
            service.fail_launch(run, "its last run is still there; stop that first")
        else:
            service.begin_launch(run)
            self._starter.launch(service, run)

    def stop(self, run: RunKey, signum: int, *, whole_tree: bool) -> None:
        """See `Driver.stop`.

        The compose file sets the first signal and the time until KILL.
        """
        service = self._services.get(run.instance_id)
        if service is not None and service.is_new(run):
            service.begin_removal(run)
            service.stopping = True
            # The containers may be those of a dependency that another service is starting just now.
            self._starter.when_ended(service.key, partial(self._clear, service, run))
            return
        if service is None or service.run != run or service.stopping:
            return
        service.stopping = True
        self._starter.cancel(service, partial(self._remove, service, run))

    def owns(self, run: RunKey) -> bool:
        """See `ServiceDriver.owns`."""
        service = self._services.get(run.instance_id)
        return service is not None and service.run == run

    def signal(self, run: RunKey, signum: int, *, whole_tree: bool, done: Done) -> None:
        """See `Driver.signal`. The engine signals the main process of each running container."""
        service = self._services.get(run.instance_id)
        if service is None or service.run != run:
            done("its containers have ended")
        elif whole_tree:
            done("the engine signals only the main process of a container")
        elif problem := self._problem_of(service):
            done(problem)
        else:
            running = [each.id for each in service.containers if each.running]
            self._actions.signal(running, signum, done)

    def _clear(self, service: FollowedService, run: RunKey) -> None:
        if service.run != run:
            return
        if service.containers:
            self._stops.request(service)
        else:  # another client has removed them
            service.finish_stop("")

    def _remove(self, service: FollowedService, run: RunKey) -> None:
        """Have compose stop and remove the containers of a run without a start in progress."""
        if service.run != run:
            return
        if service.waits_for_compose and not service.containers:
            service.fail_launch(run, "stopped before any container ran")
        else:
            service.abandon_launch()
            self._stops.request(service)

    def adopt(self, specs: Mapping[str, InstanceSpec]) -> list[Adopted]:
        """See `Driver.adopt`.

        `follow` finds running services, including those of an earlier daemon.
        """
        return []

    def disown(self) -> None:
        """See `Driver.disown`."""
        for service in self._services.values():
            service.close()
        self._services.clear()
        self._liveness.clear()
        self._stops.clear()
        self._starter.clear()
        self._files.close()
        self._watch.close()

    def close(self) -> None:
        """See `Driver.close`. Running calls of compose are killed."""
        self.disown()
        self._calls.close()
        self._actions.close()
        self._prober.close()

    # --- EngineListener

    def synced(
        self, projects: frozenset[str], containers: Sequence[Container], images: Mapping[str, str]
    ) -> None:
        """See `EngineListener.synced`."""
        self._engine_problem = ""
        self._observed_projects = projects
        self._containers.reset(containers)
        self._image_ids = images
        for service in list(self._services.values()):
            self._update(service)
        self._restart_users(self._users.reset(self._containers.all()))
        self._starter.all_changed()
        self._update_survey()

    def container_changed(self, container: Container) -> None:
        """See `EngineListener.container_changed`."""
        self._containers.put(container)
        self._update_services((container.project, container.service))

    def container_removed(self, container_id: str) -> None:
        """See `EngineListener.container_removed`."""
        key = self._containers.remove(container_id)
        if key is not None:
            self._update_services(key)

    def images_changed(self, ids: Mapping[str, str]) -> None:
        """See `EngineListener.images_changed`."""
        self._image_ids = ids
        if not self._engine_problem:
            for service in list(self._services.values()):
                self._update(service)
            self._update_survey()

    def engine_lost(self, why: str) -> None:
        """See `EngineListener.engine_lost`."""
        self._engine_problem = why
        for service in list(self._services.values()):
            service.mark_unobservable(why)
        self._update_survey()

    # --- queries

    def is_orphan(self, container_id: str) -> bool:
        """Return whether the container is an orphan according to the latest facts."""
        return container_id in self._survey.orphans

    # --- facts

    def _update_services(self, key: Key) -> None:
        if self._engine_problem:  # `synced` will update all services
            return
        for service in list(self._services.values()):
            if service.key == key:
                self._update(service)
        self._restart_users(self._users.changed(key, self._containers.of_service(key)))
        self._starter.changed(key)
        self._update_survey()

    def _restart_users(self, started: Mapping[Key, float]) -> None:
        """Report each run that is older than a service that the run builds upon."""
        for service in list(self._services.values()) if started else ():
            if why := self._users.why_outdated(service.wanted, service.containers, started):
                service.report_outdated(why)

    def _update(self, service: FollowedService) -> None:
        if problem := self._problem_of(service):
            service.mark_unobservable(problem)
        else:
            image_id = self._image_ids.get(service.wanted.image, UNKNOWN_IMAGE)
            service.update(self._containers.of_service(service.key), image_id)
            self._watch_liveness(service)

    def _watch_liveness(self, service: FollowedService) -> None:
        run = service.ready_run
        if run is not None:
            self._liveness.begin(run, service.spec, no_command)
        else:
            self._liveness.end(service.spec.instance_id)

    def _problem_of(self, service: FollowedService) -> str:
        """Return why the containers of a service are unknown, or the empty string."""
        if self._engine_problem or service.wanted.project in self._observed_projects:
            return self._engine_problem
        return NOT_YET_OBSERVED  # the project is new, and `synced` will follow

    def _watch_projects(self) -> None:
        """Watch the projects of the catalog, and those of services that left the catalog and still run."""
        projects = frozenset(self._projects) | {each.wanted.project for each in self._services.values()}
        if projects != self._wanted_projects:
            self._wanted_projects = projects
            self._watch.watch_projects(projects)

    def _unfollow(self, instance_id: str) -> None:
        service = self._services.pop(instance_id, None)
        if service is not None:
            service.close()
            self._liveness.end(instance_id)
            self._starter.forget(service)
            self._watch_projects()

    def _update_survey(self) -> None:
        problem = "" if self._engine_problem == NOT_YET_OBSERVED else self._engine_problem
        if self._engine_problem:
            now = Survey(problem=problem)
        else:
            now = take_survey(
                self._projects, self._services.values(), self._containers.all(), self._image_ids
            )
        if now != self._survey:
            self._survey = now
            self._listener.surveyed(now)

    def _begin_probe(self, spec: InstanceSpec, ready: Callable[[], None]) -> Callable[[], None]:
        assert spec.ready is not None

        def succeeded() -> None:
            ready()
            if (service := self._services.get(spec.instance_id)) is not None:
                self._watch_liveness(service)

        return self._prober.start(spec.ready, None, succeeded)

    # --- facts for the starter

    def containers_of(self, key: Key) -> Sequence[Container]:
        """See `Facts.containers_of`."""
        return self._containers.of_service(key)

    def image_id(self, tag: str) -> str:
        """See `Facts.image_id`."""
        return self._image_ids.get(tag, UNKNOWN_IMAGE)

    def siblings(self, wanted: ServiceSpec) -> Mapping[str, ServiceSpec]:
        """See `Facts.siblings`."""
        return self._catalog.siblings(wanted)

    def references_gone(self, wanted: ServiceSpec, container: Container) -> bool:
        """See `Facts.references_gone`."""
        return bool(wanted.hashed_definition) and not all(
            self._containers.knows(container_id) for container_id in used_containers(container)
        )

    # --- calls of compose

    def is_stopping(self, key: Key) -> bool:
        """See `Facts.is_stopping`."""
        return self._stops.is_stopping(key)

    def _stop_ended(self, key: Key) -> None:
        self._starter.changed(key)

    def _stop_command(self, services: Sequence[ServiceSpec]) -> list[str]:
        return self._command_line(["rm", "--stop", "--force"], services)

    def _create_command(self, services: Sequence[ServiceSpec]) -> list[str]:
        # Without --no-recreate, compose replaces containers with a changed definition, running ones and those
        # of dependencies included. (--no-deps would leave dependencies alone, but labels the container with
        # another hash than `config` prints.)
        return self._start_command(["up", "--no-start", "--no-recreate"], services)

    def _start_command(self, verb: Sequence[str], services: Sequence[ServiceSpec]) -> list[str]:
        self._reader.check()  # not before a stop, which must always work and executes nothing from the files
        return self._command_line(verb, services)

    def _command_line(self, verb: Sequence[str], services: Sequence[ServiceSpec]) -> list[str]:
        """Return the command line of compose for services of the same files.

        Raises ComposeError.
        """
        program = self._reader.program
        if program is None:  # the program disappeared after the files were read
            raise ComposeError(self._reader.program_problem)
        names = [each.service for each in services]
        return program.command(services[0].files, services[0].project, *verb, *names, all_profiles=True)
