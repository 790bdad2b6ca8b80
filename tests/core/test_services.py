"""Compose services: unexpected starts, lost containers, and an unreachable engine."""

from __future__ import annotations

from dataclasses import replace

from hostmanager_server.core import config_plan, dependencies, plan
from hostmanager_server.core.actions import Launch, Stop
from hostmanager_server.core.catalog import UNCLAIMED, Catalog, Project, with_services
from hostmanager_server.core.compose import ServiceStatus
from hostmanager_server.core.counters import next_deadline
from hostmanager_server.core.events import (
    Appeared,
    Cleared,
    Degraded,
    Exited,
    ExitStatus,
    Gone,
    Outdated,
    Ready,
    Renewed,
    RunKey,
    ServiceObserved,
    StartDelayed,
    StartFailed,
    StopFailed,
    Unobservable,
)
from hostmanager_server.core.model import State, new_instance
from hostmanager_server.core.plan import TargetChange
from hostmanager_server.core.spec import (
    Backoff,
    HostSpec,
    InstanceSpec,
    Management,
    ProcessSpec,
    RestartPolicy,
    ServiceDependency,
    ServiceSpec,
    Target,
)

from tests.core.instances import with_fields
from tests.core.scripted_instance import ScriptedInstance

SERVICE = ServiceSpec("lab", ("/lab/compose.yaml",), "ocs-a", "agent:1", replicas=3)
STEADY = RestartPolicy(backoff=Backoff(initial=1.0))
DOWN = ServiceStatus(image_id="sha256:1")
UP = ServiceStatus(image_id="sha256:1", container_id="c1", running=True, running_image="sha256:1")


def service(target: Target = Target.UP, *, agent_class: str = "Agent", **changes: object) -> ScriptedInstance:
    spec = InstanceSpec("a", agent_class, Management.DOCKER, target, service=SERVICE, restart=STEADY)
    return ScriptedInstance(new_instance(replace(spec, **changes)))  # type: ignore[arg-type]  # the test's choice


def appears(s: ScriptedInstance, number: int = 1) -> list[object]:
    return list(s.post(ServiceObserved("a", UP), Appeared(RunKey("a", number), 4711, s.now)))


def test_no_service_starts_before_the_first_observation() -> None:
    s = service()
    assert s.decide() == []
    assert (s.instance.next_action, s.instance.settled) == (State.UNKNOWN, False)
    assert next_deadline(s.instance) is None
    (launch,) = s.post(ServiceObserved("a", DOWN))
    assert isinstance(launch, Launch)


def test_a_service_found_running_is_up() -> None:
    s = service()
    assert appears(s) == []
    assert (s.instance.standing.state, s.reasons()) == (State.UP, ["FoundRunning"])
    assert s.instance.observed.run is not None
    assert s.instance.observed.run.adopted


def test_a_service_found_running_with_the_target_down_is_stopped() -> None:
    s = service(Target.DOWN)
    (stop,) = appears(s)
    assert isinstance(stop, Stop)
    assert s.instance.standing.state is State.WAIT_DEAD


def test_a_service_that_the_engine_is_restarting_is_stopped() -> None:
    s = service()
    appears(s)
    s.ends(1)
    (stop,) = s.post(ServiceObserved("a", replace(DOWN, restarting=True))) or s.target(Target.DOWN)
    assert isinstance(stop, Stop)
    assert s.state() is State.WAIT_DEAD
    s.post(ServiceObserved("a", DOWN))
    s.ends(1)
    assert s.state() is State.DOWN


def test_a_start_says_what_it_waits_for() -> None:
    s = service()
    s.post(ServiceObserved("a", DOWN))
    run = s.instance.run_key()
    s.post(StartDelayed(run, "h to be healthy"))
    assert s.instance.standing.message == "starting; waits for h to be healthy"
    s.post(StartDelayed(run, ""))
    assert (s.instance.standing.state, s.instance.standing.message) == (State.WAIT_START, "starting")


def test_a_new_container_in_place_of_an_old_one_is_reported_once() -> None:
    s = service()
    s.post(ServiceObserved("a", DOWN))
    s.post(Renewed(s.instance.run_key(), "its network is gone; making a new container"))
    s.decide()
    assert s.reasons().count("Renewed") == 1


def test_an_enforced_run_restarts_with_a_service_that_it_builds_upon() -> None:
    for target in (Target.UP, Target.PASSIVE):
        s = service(target)
        appears(s)
        stops = s.post(Outdated(s.instance.run_key(), "x has started again"))
        enforced = target is Target.UP
        assert [type(action) for action in stops] == ([Stop] if enforced else [])
        assert ("RestartedWith" in s.reasons(), s.instance.wanted.restart) == (enforced, enforced)


def test_a_service_that_is_down_keeps_no_container() -> None:
    left = replace(DOWN, container_id="c1", container_ids=("c1",), status="exited")
    for target, stops in ((Target.DOWN, 1), (Target.PASSIVE, 0)):
        s = service(target)
        actions = s.post(ServiceObserved("a", left))
        assert [type(action) for action in actions] == [Stop] * stops
    s = service(Target.DOWN)
    s.post(ServiceObserved("a", left))
    assert s.state() is State.WAIT_DEAD
    s.post(ServiceObserved("a", DOWN), Cleared(s.instance.run_key()))
    assert (s.state(), s.instance.observed.last_exit) == (State.DOWN, None)


def test_a_passive_service_mirrors_the_observations() -> None:
    s = service(Target.PASSIVE, agent_class=UNCLAIMED)
    s.post(ServiceObserved("a", DOWN))
    assert s.state() is State.DOWN
    appears(s)
    assert s.state() is State.UP
    assert s.ends(1) == []
    assert (s.state(), s.instance.standing.fail_times) == (State.DOWN, ())


def test_a_passive_service_starts_once_on_request() -> None:
    s = service(Target.PASSIVE, agent_class=UNCLAIMED)
    s.post(ServiceObserved("a", DOWN))
    (launch,) = s.target(Target.UP)
    assert isinstance(launch, Launch)
    s.started()
    s.ready()
    assert (s.instance.standing.state, s.instance.wanted.target) == (State.UP, Target.PASSIVE)
    assert s.ends(1) == []


def test_the_refused_restart_of_an_observed_service_names_the_way() -> None:
    s = service(Target.PASSIVE, agent_class=UNCLAIMED)
    for way in ("set the target to up instead", "request down, then up"):
        (bad,) = plan.check_restart({"a": s.instance}, ["a"])
        assert bad.why == f"cannot restart 'a': its target is passive; {way}"
        appears(s)


def test_a_start_by_compose_has_no_timeout() -> None:
    s = service()
    s.post(ServiceObserved("a", DOWN))
    assert (s.instance.standing.state, s.instance.standing.deadline) == (State.WAIT_START, None)
    assert s.wait(3600.0) == []
    assert s.instance.standing.state is State.WAIT_START


def test_a_failed_call_of_compose_is_repeated_after_the_backoff() -> None:
    s = service()
    s.post(ServiceObserved("a", DOWN))
    s.post(StartFailed(s.instance.run_key(), "cannot start 'a': no such image", s.now))
    assert s.instance.standing.state is State.START_AT
    assert "no such image" in s.instance.standing.message
    assert s.due() == 1.0


def test_a_start_that_ends_on_request_is_no_failed_start() -> None:
    s = service()
    s.post(ServiceObserved("a", DOWN))
    (stop,) = s.target(Target.DOWN)
    assert isinstance(stop, Stop)
    s.start_failed("cannot start 'a': stopped before any container ran")
    assert (s.state(), s.instance.standing.message) == (State.DOWN, "never started")


def test_a_failed_stop_is_repeated_after_a_delay() -> None:
    s = service()
    appears(s)
    (stop,) = s.target(Target.DOWN)
    assert isinstance(stop, Stop)
    assert s.wait(3600.0) == []  # the engine escalates the stop
    assert s.post(StopFailed(s.instance.run_key(), "cannot stop: engine says no", s.now)) == []
    assert (s.instance.standing.reason, s.instance.standing.message) == (
        "StopFailed",
        "cannot stop: engine says no",
    )
    (again,) = s.until_state_deadline()
    assert isinstance(again, Stop)
    s.post(StopFailed(s.instance.run_key(), "still no", s.now))
    assert s.due() == 2.0
    s.ends(137)
    assert s.state() is State.DOWN


def test_missing_containers_are_restarted_and_the_others_run_on() -> None:
    s = service()
    appears(s)
    run = s.instance.run_key()
    assert s.post(Degraded(run, "2 of 3 containers run", ExitStatus(code=1), s.now)) == []
    assert (s.instance.standing.state, s.instance.standing.reason, len(s.instance.standing.fail_times)) == (
        State.UP,
        "Degraded",
        1,
    )
    (mend,) = s.until_state_deadline()
    assert isinstance(mend, Launch)
    assert mend.run == run
    s.post(Ready(run, s.now))
    assert (s.instance.standing.reason, s.instance.observed.run is not None) == ("Running", True)


def test_a_request_starts_missing_containers_at_once() -> None:
    s = service()
    appears(s)
    s.post(Degraded(s.instance.run_key(), "2 of 3 containers run", None, s.now))
    (mend,) = s.target(Target.UP)
    assert isinstance(mend, Launch)
    assert s.due() is None or s.due() == 120.0  # when the failure no longer counts


def test_a_stopped_manager_does_not_start_missing_containers() -> None:
    s = service()
    appears(s)
    s.post(Degraded(s.instance.run_key(), "2 of 3 containers run", None, s.now))
    s.instance = with_fields(s.instance, enforced=False)
    assert s.decide() == []
    assert s.instance.standing.deadline is None


def test_missing_containers_that_do_not_start_back_off() -> None:
    s = service()
    appears(s)
    run = s.instance.run_key()
    waits = []
    for _ in range(3):
        s.post(Degraded(run, "2 of 3 containers run: no such image", None, s.now))
        waits.append(s.due())
        s.until_state_deadline()
    assert waits == [1.0, 2.0, 4.0]


def test_missing_containers_of_a_passive_service_are_only_reported() -> None:
    s = service(Target.PASSIVE, agent_class=UNCLAIMED)
    appears(s)
    s.post(Degraded(s.instance.run_key(), "2 of 3 containers run", None, s.now))
    assert (s.instance.standing.reason, s.instance.standing.deadline) == ("Degraded", None)
    assert s.wait(3600.0) == []


def test_an_unobservable_service_has_no_actions_and_an_unknown_state() -> None:
    s = service()
    appears(s)
    assert s.post(Unobservable("a", "the engine is away")) == []
    assert s.instance.next_action is State.UNKNOWN
    assert s.target(Target.DOWN) == []
    assert s.wait(3600.0) == []
    (stop,) = s.post(ServiceObserved("a", UP))
    assert isinstance(stop, Stop)


def test_an_exit_while_the_engine_was_away_counts_as_an_exit() -> None:
    s = service()
    appears(s)
    s.post(Unobservable("a", "the engine is away"))
    key = s.instance.run_key()
    s.post(ServiceObserved("a", DOWN), Exited(key, ExitStatus(code=3), s.now), Gone(key, s.now))
    assert (s.instance.standing.state, len(s.instance.standing.fail_times)) == (State.START_AT, 1)
    assert "Exited" in s.reasons()


def test_a_stop_continues_after_the_engine_was_away() -> None:
    s = service()
    appears(s)
    s.target(Target.DOWN)
    s.post(Unobservable("a", "the engine is away"))
    key = s.instance.run_key()
    s.post(ServiceObserved("a", DOWN), Exited(key, ExitStatus(code=137), s.now), Gone(key, s.now))
    assert (s.instance.standing.state, s.instance.standing.fail_times) == (State.DOWN, ())


def test_a_stopped_manager_shows_running_services_and_stops_none() -> None:
    s = service(Target.DOWN)
    s.instance = with_fields(s.instance, enforced=False)
    assert appears(s) == []
    assert s.instance.standing.state is State.UP


def test_a_new_image_of_the_tag_requires_a_restart() -> None:
    s = service()
    appears(s)
    required = []
    for record in (UP, replace(UP, image_id="sha256:2"), replace(UP, definition_changed=True)):
        s.post(ServiceObserved("a", record))
        required.append(s.instance.restart_required)
    assert required == [False, True, True]


# --- the site config and the compose files


def catalog(*names: str, inactive: frozenset[str] = frozenset()) -> Catalog:
    services = {name: replace(SERVICE, service=name, replicas=1) for name in names}
    return Catalog("ocs-", (Project("lab", SERVICE.files, services, inactive),), {SERVICE.files[0]: ()})


def site(*ids: str, agent_class: str = "Agent", target: Target = Target.UP) -> HostSpec:
    specs = [InstanceSpec(i, agent_class, Management.DOCKER, target) for i in ids]
    return HostSpec("host", tuple(specs))


def test_services_match_instances_and_the_others_are_passive() -> None:
    host = with_services(site("a", "b"), catalog("ocs-a", "db"))
    a, b, db = host.instances
    assert a.service is not None
    assert (b.service, b.problem) == (
        None, "no service 'ocs-b' in /lab/compose.yaml; add the service, or change --docker-service-prefix"
    )  # fmt: skip
    assert (db.instance_id, db.agent_class, db.initial_target) == ("db", "[docker]", Target.PASSIVE)


def test_a_start_does_not_start_a_dependency_that_must_be_down() -> None:
    """Otherwise the dependency would be started and stopped again and again, with all that builds upon it."""
    found = catalog("ocs-a", "made", "ocs-b", "ocs-c")
    needed = {"ocs-a": (ServiceDependency("made"),), "made": (ServiceDependency("ocs-b"),),
              "ocs-b": (ServiceDependency("ocs-c", required=False),)}  # fmt: skip
    (project,) = found.projects
    services = {name: replace(s, dependencies=needed.get(name, ())) for name, s in project.services.items()}
    host = with_services(site("a", "b", "c"), replace(found, projects=(replace(project, services=services),)))
    instances = {spec.instance_id: new_instance(spec) for spec in host.instances}
    a = instances["a"]
    assert a.spec.service_dependencies == ("made", "b")
    for target in (Target.UP, Target.PASSIVE):
        assert (
            dependencies.waiting_for({**instances, "b": with_fields(instances["b"], target=target)}, a) == ()
        )
    stopped = {**instances, "b": with_fields(instances["b"], target=Target.DOWN)}
    (unmet,) = dependencies.waiting_for(stopped, a)
    assert (unmet.instance_id, unmet.hopeless) == ("b", "its target is down")
    assert dependencies.held_by(stopped, stopped["b"], ["a"]) == ()  # stops have no order
    changes = [TargetChange("a", Target.UP, with_dependencies=True)]
    assert [each.instance_id for each in plan.with_dependencies(stopped, changes)] == ["b", "a"]


def test_a_service_of_an_inactive_profile_is_tracked_only_by_name() -> None:
    inactive = frozenset({"ocs-a", "debug"})
    host = with_services(site("a"), catalog("ocs-a", "debug", inactive=inactive))
    assert [spec.instance_id for spec in host.instances] == ["a"]
    assert host.instances[0].service is not None


def test_a_passive_service_does_not_take_the_name_of_an_instance() -> None:
    native = InstanceSpec("db", "Agent", process=ProcessSpec(("agent",)))
    host = with_services(HostSpec("host", (native,)), catalog("db"))
    assert [spec.instance_id for spec in host.instances] == ["db", "lab-db"]


def applied(s: ScriptedInstance | None, host: HostSpec, instance_id: str = "a") -> config_plan.Plan:
    instances = {} if s is None else {s.instance.instance_id: s.instance}
    now = s.now if s is not None else service().now
    return config_plan.apply_config(instances, host, now)


def observed(name: str) -> ScriptedInstance:
    host = with_services(HostSpec("host"), catalog(name))
    return ScriptedInstance(new_instance(host.instances[0]))


def test_a_passive_service_that_enters_the_site_config_runs_on() -> None:
    for runs in (True, False):
        s = observed("ocs-a")
        if runs:
            s.post(ServiceObserved("ocs-a", UP), Appeared(RunKey("ocs-a", 1), 1, s.now))
        changes = applied(s, with_services(site("a"), catalog("ocs-a")))
        assert changes.dropped == ("ocs-a",)
        new = changes.changed["a"]
        assert new.wanted.target is (Target.UP if runs else Target.DOWN)
        assert (new.passive_tracking, new.next_action) == (False, State.UNKNOWN)


def test_a_service_that_leaves_the_site_config_becomes_passive_and_runs_on() -> None:
    s = service()
    appears(s)
    changes = applied(s, with_services(site(), catalog("ocs-a")))
    assert changes.dropped == ("a",)
    assert changes.changed["ocs-a"].wanted.target is Target.PASSIVE
    assert all(not i.retired for i in changes.changed.values())


def test_a_service_can_keep_its_instance_id_without_a_prefix() -> None:
    plain = replace(catalog("a"), prefix="")
    s = ScriptedInstance(new_instance(with_services(HostSpec("host"), plain).instances[0]))
    appears(s)
    changes = applied(s, with_services(site("a"), plain))
    assert (changes.dropped, list(changes.changed)) == ((), ["a"])
    assert (changes.changed["a"].wanted.target, changes.changed["a"].wanted.successor) == (Target.UP, None)


def test_a_service_that_returns_to_the_compose_file_is_found_running() -> None:
    s = service()
    appears(s)
    changes = applied(s, with_services(site("a"), catalog()))
    s.instance = changes.changed["a"]
    assert s.decide() == []
    assert (s.instance.observed.run, s.instance.standing.state, s.instance.operable) == (
        None,
        State.UNKNOWN,
        False,
    )
    s.instance = applied(s, with_services(site("a"), catalog("ocs-a"))).changed["a"]
    assert s.decide() == []
    appears(s, 2)
    assert (s.instance.standing.state, s.instance.wanted.target) == (State.UP, Target.UP)


def test_a_passive_service_that_leaves_the_compose_file_leaves_the_list_and_runs_on() -> None:
    s = observed("db")
    s.post(ServiceObserved("db", UP), Appeared(RunKey("db", 1), 1, s.now))
    changes = applied(s, HostSpec("host"))
    assert (changes.dropped, dict(changes.changed)) == (("db",), {})


def test_a_change_of_management_stops_the_process_before_the_service_starts() -> None:
    native = InstanceSpec("a", "Agent", process=ProcessSpec(("agent",)))
    s = ScriptedInstance(new_instance(native)).up()
    s.instance = applied(s, with_services(site("a"), catalog("ocs-a"))).changed["a"]
    (stop,) = s.decide()
    assert isinstance(stop, Stop)
    s.ends()
    assert (s.instance.wanted.management, s.instance.next_action, s.instance.observed.run) == (
        Management.DOCKER,
        State.UNKNOWN,
        None,
    )
    (launch,) = s.post(ServiceObserved("a", DOWN))
    assert isinstance(launch, Launch)


def test_a_changed_image_tag_restarts_nothing() -> None:
    s = service()
    appears(s)
    changed = replace(SERVICE, image="agent:2", replicas=1)
    host = HostSpec("host", (replace(s.instance.spec, service=changed),))
    s.instance = applied(s, host).changed["a"]
    assert s.decide() == []
    assert s.instance.standing.state is State.UP


def test_a_disowned_instance_is_passive_and_runs_on() -> None:
    s = service()
    appears(s)
    s.instance = plan.observe(s.instance)
    assert s.decide() == []
    s.instance = plan.set_targets({"a": s.instance}, [TargetChange("a", Target.PASSIVE)])["a"]
    assert (s.instance.standing.state, s.instance.passive_tracking, s.instance.should_stop) == (
        State.UP,
        True,
        False,
    )


def test_instances_have_their_place_in_the_site_config() -> None:
    host = with_services(site("b", "a"), catalog("ocs-a", "db"))
    assert {spec.instance_id: spec.position for spec in host.instances} == {"b": 1, "a": 2, "db": 0}
