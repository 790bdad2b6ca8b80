"""The catalog of compose services, and their match with configured instances."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hostmanager.values import dataclass, field, replace

from hostmanager_server.core.event_log import Severity
from hostmanager_server.core.manager_status import Problem
from hostmanager_server.core.spec import HostSpec, InstanceSpec, Management, ServiceSpec, Target

# OCS's agent class for a compose service without an entry in the site config.
UNCLAIMED = "[docker]"


@dataclass(frozen=True, slots=True)
class Project:
    """A compose project: one or more files under one name.

    A plain `up` does not start the `inactive` services, as none of their profiles is active.
    """

    name: str
    files: tuple[str, ...]  # absolute
    services: Mapping[str, ServiceSpec]
    inactive: frozenset[str] = frozenset()
    unset_variables: tuple[str, ...] = ()  # without value and default, sorted; compose takes them for empty


@dataclass(frozen=True, slots=True)
class Catalog:
    """The content of the managed compose files.

    For a file with errors, `problems` lists the errors, and `projects` keeps the last good content, if any.
    """

    prefix: str = "ocs-"  # prefix + instance id = service name (OCS: --docker-service-prefix)
    projects: tuple[Project, ...] = ()
    problems: Mapping[str, tuple[Problem, ...]] = field(default_factory=dict)  # by file, good files included

    @property
    def services(self) -> dict[str, ServiceSpec]:
        """All services by name; of two services with one name, the first."""
        found: dict[str, ServiceSpec] = {}
        for project in self.projects:
            for name, service in project.services.items():
                found.setdefault(name, service)
        return found

    def siblings(self, service: ServiceSpec) -> dict[str, ServiceSpec]:
        """Return the services of the same files, by name."""
        return {name: s for p in self.projects if p.files == service.files for name, s in p.services.items()}

    @property
    def inactive(self) -> frozenset[str]:
        """The names of the services without an active profile."""
        return frozenset().union(*(project.inactive for project in self.projects))


def with_services(host: HostSpec, catalog: Catalog) -> HostSpec:
    """Return the host with a place for each instance, and a compose service for each `docker` instance.

    Each service without an instance in the site config gets a passive instance.
    """
    services = catalog.services
    claimed: set[str] = set()
    instances: list[InstanceSpec] = []
    for position, entry in enumerate(host.instances, 1):
        spec = replace(entry, position=position)
        if spec.management is not Management.DOCKER:
            instances.append(spec)
            continue
        name = catalog.prefix + spec.instance_id
        service = services.get(name)
        claimed.add(name)
        if spec.problem:  # an entry with errors: the service stays as it is
            instances.append(spec)
            continue
        problem = "" if service is not None else _no_service(name, catalog)
        instances.append(replace(spec, service=service, problem=problem))
    taken = {spec.instance_id for spec in instances}
    for name, service in services.items():
        if name in claimed or name in catalog.inactive:
            continue
        instance_id = name if name not in taken else f"{service.project}-{name}"
        instances.append(
            InstanceSpec(
                instance_id,
                UNCLAIMED,
                Management.DOCKER,
                Target.PASSIVE,
                service=service,
                labels=host.labels,
            )
        )
    return replace(host, instances=tuple(_with_dependencies(instances, catalog)))


def _with_dependencies(instances: Sequence[InstanceSpec], catalog: Catalog) -> Iterator[InstanceSpec]:
    """Yield the instances with those of the services that compose starts before theirs."""
    definitions = {project.files: project.services for project in catalog.projects}
    ids = {(s.service.files, s.service.service): s.instance_id for s in instances if s.service is not None}
    for spec in instances:
        if spec.service is None or not spec.service.dependencies:
            yield spec
            continue
        files = spec.service.files
        names = _required_services(spec.service, definitions.get(files, {}))
        yield replace(
            spec, service_dependencies=tuple(ids[files, name] for name in names if (files, name) in ids)
        )


def _required_services(service: ServiceSpec, siblings: Mapping[str, ServiceSpec]) -> list[str]:
    """Return the direct and indirect dependencies of a service without which the service cannot start."""
    found: dict[str, None] = {}
    queue = [service]
    while queue:
        new = [each.service for each in queue.pop().dependencies if each.required]
        queue += [siblings[name] for name in new if name in siblings and name not in found]
        found.update(dict.fromkeys(new))
    found.pop(service.service, None)
    return list(found)


def _no_service(name: str, catalog: Catalog) -> str:
    if not catalog.problems:
        return f"no service {name!r}: no compose file is managed; give one with --docker-compose"
    broken = [
        file
        for file, problems in catalog.problems.items()
        if any(problem.severity is Severity.ERROR for problem in problems)
    ]
    if broken:
        return f"no service {name!r}: there are errors in {', '.join(broken)}; correct them"
    files = ", ".join(catalog.problems)
    return f"no service {name!r} in {files}; add the service, or change --docker-service-prefix"
