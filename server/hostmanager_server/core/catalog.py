"""The services of the managed compose files, matched with the instances of the site config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hostmanager_server.core.event_log import Severity
from hostmanager_server.core.manager_status import Problem
from hostmanager_server.core.spec import HostSpec, InstanceSpec, Management, ServiceSpec, Target

# OCS's class of a compose service that the site config does not know.
UNCLAIMED = "[docker]"


@dataclass(frozen=True, slots=True)
class Project:
    """A compose project: one or more files under one name. `inactive` services are not started by a plain
    `up`, as none of their profiles is active."""

    name: str
    files: tuple[str, ...]  # absolute
    services: Mapping[str, ServiceSpec]
    inactive: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Catalog:
    """What the managed compose files say. A file that cannot be used has problems, and keeps the project that
    it last had, if any."""

    prefix: str = "ocs-"  # with an instance id, the name of its service (OCS: --docker-service-prefix)
    projects: tuple[Project, ...] = ()
    problems: Mapping[str, tuple[Problem, ...]] = field(default_factory=dict)  # by file, all good ones too

    @property
    def services(self) -> dict[str, ServiceSpec]:
        """By name. Of two services of one name the first is managed."""
        found: dict[str, ServiceSpec] = {}
        for project in self.projects:
            for name, service in project.services.items():
                found.setdefault(name, service)
        return found

    def started_with(self, service: ServiceSpec) -> set[str]:
        """The names of the services that compose starts with this one: itself, and what it depends on."""
        siblings = {
            name: s for p in self.projects if p.files == service.files for name, s in p.services.items()
        }
        found: set[str] = set()
        queue = [service]
        while queue:
            each = queue.pop()
            if each.service not in found:
                found.add(each.service)
                queue.extend(siblings[name] for name in each.depends_on if name in siblings)
        return found

    @property
    def inactive(self) -> frozenset[str]:
        return frozenset().union(*(project.inactive for project in self.projects))


def with_services(host: HostSpec, catalog: Catalog) -> HostSpec:
    """The host with the compose service of each `docker` instance, and an instance for each service that no
    instance claims; those are only observed."""
    services = catalog.services
    claimed: set[str] = set()
    instances: list[InstanceSpec] = []
    for spec in host.instances:
        if spec.management is not Management.DOCKER:
            instances.append(spec)
            continue
        name = catalog.prefix + spec.instance_id
        service = services.get(name)
        claimed.add(name)
        problem = "" if service is not None else _no_service(name, catalog)
        instances.append(replace(spec, service=service, problem=problem))
    taken = {spec.instance_id for spec in instances}
    for name, service in services.items():
        if name in claimed or name in catalog.inactive:
            continue
        instance_id = name if name not in taken else f"{service.project}-{name}"
        instances.append(
            InstanceSpec(instance_id, UNCLAIMED, Management.DOCKER, Target.PASSIVE, service=service)
        )
    return replace(host, instances=tuple(instances))


def _no_service(name: str, catalog: Catalog) -> str:
    if not catalog.problems:
        return f"there is no service {name!r}: no compose file is managed; give one with --docker-compose"
    broken = [
        file
        for file, problems in catalog.problems.items()
        if any(problem.severity is Severity.ERROR for problem in problems)
    ]
    if broken:
        return f"no service {name!r} is known: see what is wrong with {', '.join(broken)}"
    return f"no service {name!r} in {', '.join(catalog.problems)}; add it, or change --docker-service-prefix"
