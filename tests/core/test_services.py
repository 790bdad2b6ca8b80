"""The life of a compose service: facts that appear by themselves, parts that are lost, what is not known."""

from __future__ import annotations

from dataclasses import replace

from hostmanager_server.core import plan
from hostmanager_server.core.actions import Launch, Stop
from hostmanager_server.core.catalog import UNCLAIMED, Catalog, Project, with_services
from hostmanager_server.core.compose import ServiceStatus
from hostmanager_server.core.events import (
    Appeared,
    Degraded,
    Exited,
    ExitStatus,
    Gone,
    OutOfSight,
    Ready,
    RunKey,
    ServiceObserved,
    StartFailed,
    StopFailed,
)
from hostmanager_server.core.lifecycle import next_deadline
from hostmanager_server.core.model import State, new_instance
from hostmanager_server.core.plan import TargetChange
from hostmanager_server.core.spec import (
    Backoff,
    HostSpec,
    InstanceSpec,
    Management,
    ProcessSpec,
    RestartPolicy,
    ServiceSpec,
    Target,
)

from tests.core.instances import with_fields
from tests.core.script import Script

SERVICE = ServiceSpec("lab", ("/lab/compose.yaml",), "ocs-a", "agent:1", replicas=3)
STEADY = RestartPolicy(backoff=Backoff(initial=1.0))
DOWN = ServiceStatus(image_id="sha256:1")
UP = ServiceStatus(image_id="sha256:1", container_id="c1", running=True, running_image="sha256:1")


def service(target: Target = Target.UP, *, agent_class: str = "Agent", **changes: object) -> Script:
    spec = InstanceSpec("a", agent_class, Management.DOCKER, target, service=SERVICE, restart=STEADY)
    return Script(new_instance(replace(spec, **changes)))  # type: ignore[arg-type]  # the test's choice


def appears(s: Script, number: int = 1) -> list[object]:
    return list(s.see(ServiceObserved("a", UP), Appeared(RunKey("a", number), 4711, s.now)))


def test_nothing_is_started_before_it_was_looked_whether_it_runs() -> None:
    s = service()
    assert s.decide() == []
    assert (s.i.next_action, s.i.settled) == (State.UNKNOWN, False)
    assert next_deadline(s.i) is None
    (launch,) = s.see(ServiceObserved("a", DOWN))
    assert isinstance(launch, Launch)


def test_what_is_found_running_is_taken_as_it_runs() -> None:
    s = service()
    assert appears(s) == []
    assert (s.i.standing.state, s.reasons()) == (State.UP, ["FoundRunning"])
    assert s.i.observed.run is not None
    assert s.i.observed.run.adopted


def test_what_runs_although_it_is_to_be_down_is_shut_down() -> None:
    s = service(Target.DOWN)
    (stop,) = appears(s)
    assert isinstance(stop, Stop)
    assert s.i.standing.state is State.WAIT_DEAD


def test_what_the_engine_is_about_to_start_again_is_removed_before_it_does() -> None:
    s = service()
    appears(s)
    s.ends(1)
    (stop,) = s.see(ServiceObserved("a", replace(DOWN, restarting=True))) or s.target(Target.DOWN)
    assert isinstance(stop, Stop)
    assert s.state() is State.WAIT_DEAD
    s.see(ServiceObserved("a", DOWN))
    s.ends(1)
    assert s.state() is State.DOWN


def test_what_is_only_observed_is_shown_as_it_is() -> None:
    s = service(Target.PASSIVE, agent_class=UNCLAIMED)
    s.see(ServiceObserved("a", DOWN))
    assert s.state() is State.DOWN
    appears(s)
    assert s.state() is State.UP
    assert s.ends(1) == []
    assert (s.state(), s.i.standing.fail_times) == (State.DOWN, ())


def test_what_is_only_observed_is_started_once_when_asked() -> None:
    s = service(Target.PASSIVE, agent_class=UNCLAIMED)
    s.see(ServiceObserved("a", DOWN))
    (launch,) = s.target(Target.UP)
    assert isinstance(launch, Launch)
    s.started()
    s.ready()
    assert (s.i.standing.state, s.i.wanted.target) == (State.UP, Target.PASSIVE)
    assert s.ends(1) == []


def test_a_start_has_all_the_time_that_compose_takes() -> None:
    s = service()
    s.see(ServiceObserved("a", DOWN))
    assert (s.i.standing.state, s.i.standing.deadline) == (State.WAIT_START, None)
    assert s.wait(3600.0) == []
    assert s.i.standing.state is State.WAIT_START


def test_a_failed_call_of_compose_is_tried_again_after_the_backoff() -> None:
    s = service()
    s.see(ServiceObserved("a", DOWN))
    s.see(StartFailed(s.i.run_key(), "cannot start 'a': no such image", s.now))
    assert s.i.standing.state is State.START_AT
    assert "no such image" in s.i.standing.message
    assert s.due() == 1.0


def test_a_stop_is_one_call_and_is_tried_again_when_it_fails() -> None:
    s = service()
    appears(s)
    (stop,) = s.target(Target.DOWN)
    assert isinstance(stop, Stop)
    assert s.wait(3600.0) == []  # the engine knows how to insist
    assert s.see(StopFailed(s.i.run_key(), "cannot stop: engine says no", s.now)) == []
    assert (s.i.standing.reason, s.i.standing.message) == ("StopFailed", "cannot stop: engine says no")
    (again,) = s.until_state_deadline()
    assert isinstance(again, Stop)
    s.see(StopFailed(s.i.run_key(), "still no", s.now))
    assert s.due() == 2.0
    s.ends(137)
    assert s.state() is State.DOWN


def test_a_lost_part_is_started_again_and_the_rest_goes_on() -> None:
    s = service()
    appears(s)
    run = s.i.run_key()
    assert s.see(Degraded(run, "2 of 3 containers run", ExitStatus(code=1), s.now)) == []
    assert (s.i.standing.state, s.i.standing.reason, len(s.i.standing.fail_times)) == (
        State.UP,
        "Degraded",
        1,
    )
    (mend,) = s.until_state_deadline()
    assert isinstance(mend, Launch)
    assert mend.run == run
    s.see(Ready(run, s.now))
    assert (s.i.standing.reason, s.i.observed.run is not None) == ("Running", True)


def test_a_request_starts_a_lost_part_at_once() -> None:
    s = service()
    appears(s)
    s.see(Degraded(s.i.run_key(), "2 of 3 containers run", None, s.now))
    (mend,) = s.target(Target.UP)
    assert isinstance(mend, Launch)
    assert s.due() is None or s.due() == 120.0  # when the failure is forgotten


def test_a_lost_part_is_not_started_while_the_manager_sleeps() -> None:
    s = service()
    appears(s)
    s.see(Degraded(s.i.run_key(), "2 of 3 containers run", None, s.now))
    s.i = with_fields(s.i, enforced=False)
    assert s.decide() == []
    assert s.i.standing.deadline is None


def test_a_part_that_cannot_be_mended_backs_off() -> None:
    s = service()
    appears(s)
    run = s.i.run_key()
    waits = []
    for _ in range(3):
        s.see(Degraded(run, "2 of 3 containers run: no such image", None, s.now))
        waits.append(s.due())
        s.until_state_deadline()
    assert waits == [1.0, 2.0, 4.0]


def test_a_lost_part_of_what_is_only_observed_is_only_told() -> None:
    s = service(Target.PASSIVE, agent_class=UNCLAIMED)
    appears(s)
    s.see(Degraded(s.i.run_key(), "2 of 3 containers run", None, s.now))
    assert (s.i.standing.reason, s.i.standing.deadline) == ("Degraded", None)
    assert s.wait(3600.0) == []


def test_out_of_sight_nothing_is_done_and_nothing_is_claimed() -> None:
    s = service()
    appears(s)
    assert s.see(OutOfSight("a", "the engine is away")) == []
    assert s.i.next_action is State.UNKNOWN
    assert s.target(Target.DOWN) == []
    assert s.wait(3600.0) == []
    (stop,) = s.see(ServiceObserved("a", UP))
    assert isinstance(stop, Stop)


def test_an_end_that_nobody_saw_is_dealt_with_as_the_exit_it_was() -> None:
    s = service()
    appears(s)
    s.see(OutOfSight("a", "the engine is away"))
    key = s.i.run_key()
    s.see(ServiceObserved("a", DOWN), Exited(key, ExitStatus(code=3), s.now), Gone(key, s.now))
    assert (s.i.standing.state, len(s.i.standing.fail_times)) == (State.START_AT, 1)
    assert "Exited" in s.reasons()


def test_a_stop_goes_on_after_the_engine_was_away() -> None:
    s = service()
    appears(s)
    s.target(Target.DOWN)
    s.see(OutOfSight("a", "the engine is away"))
    key = s.i.run_key()
    s.see(ServiceObserved("a", DOWN), Exited(key, ExitStatus(code=137), s.now), Gone(key, s.now))
    assert (s.i.standing.state, s.i.standing.fail_times) == (State.DOWN, ())


def test_a_sleeping_manager_shows_what_runs_and_leaves_it_alone() -> None:
    s = service(Target.DOWN)
    s.i = with_fields(s.i, enforced=False)
    assert appears(s) == []
    assert s.i.standing.state is State.UP


def test_another_image_than_the_tag_means_asks_for_a_restart() -> None:
    s = service()
    appears(s)
    seen = []
    for record in (UP, replace(UP, image_id="sha256:2"), replace(UP, definition_changed=True)):
        s.see(ServiceObserved("a", record))
        seen.append(s.i.restart_required)
    assert seen == [False, True, True]


# --- the site config and the compose files


def catalog(*names: str, inactive: frozenset[str] = frozenset()) -> Catalog:
    services = {name: replace(SERVICE, service=name, replicas=1) for name in names}
    return Catalog("ocs-", (Project("lab", SERVICE.files, services, inactive),), {SERVICE.files[0]: ()})


def site(*ids: str, agent_class: str = "Agent", target: Target = Target.UP) -> HostSpec:
    specs = [InstanceSpec(i, agent_class, Management.DOCKER, target) for i in ids]
    return HostSpec("host", tuple(specs))


def test_services_meet_the_instances_that_name_them_and_the_others_are_observed() -> None:
    host = with_services(site("a", "b"), catalog("ocs-a", "db"))
    a, b, db = host.instances
    assert a.service is not None
    assert (b.service, b.problem) == (
        None, "no service 'ocs-b' in /lab/compose.yaml; add it, or change --docker-service-prefix"
    )  # fmt: skip
    assert (db.instance_id, db.agent_class, db.initial_target) == ("db", "[docker]", Target.PASSIVE)


def test_a_service_of_an_inactive_profile_is_tracked_only_when_named() -> None:
    inactive = frozenset({"ocs-a", "debug"})
    host = with_services(site("a"), catalog("ocs-a", "debug", inactive=inactive))
    assert [spec.instance_id for spec in host.instances] == ["a"]
    assert host.instances[0].service is not None


def test_an_observed_service_does_not_take_the_name_of_an_instance() -> None:
    native = InstanceSpec("db", "Agent", process=ProcessSpec(("agent",)))
    host = with_services(HostSpec("host", (native,)), catalog("db"))
    assert [spec.instance_id for spec in host.instances] == ["db", "lab-db"]


def test_with_a_service_starts_what_it_depends_on() -> None:
    depends_on = {"a": ("b", "gone"), "b": ("c", "a"), "c": (), "d": ("a",)}
    services = {n: replace(SERVICE, service=n, depends_on=names) for n, names in depends_on.items()}
    others = {"c": replace(SERVICE, service="c", files=("/other",), depends_on=("x",))}
    projects = (Project("lab", SERVICE.files, services), Project("lab", ("/other",), others))
    found = Catalog("ocs-", projects).started_with(services["a"])
    assert found == {"a", "b", "c"}


def applied(s: Script | None, host: HostSpec, instance_id: str = "a") -> plan.Plan:
    instances = {} if s is None else {s.i.instance_id: s.i}
    now = s.now if s is not None else service().now
    return plan.apply_config(instances, host, now)


def observed(name: str) -> Script:
    host = with_services(HostSpec("host"), catalog(name))
    return Script(new_instance(host.instances[0]))


def test_an_observed_service_that_the_site_config_names_is_taken_over_as_it_runs() -> None:
    for runs in (True, False):
        s = observed("ocs-a")
        if runs:
            s.see(ServiceObserved("ocs-a", UP), Appeared(RunKey("ocs-a", 1), 1, s.now))
        changes = applied(s, with_services(site("a"), catalog("ocs-a")))
        assert changes.dropped == ("ocs-a",)
        new = changes.changed["a"]
        assert new.wanted.target is (Target.UP if runs else Target.DOWN)
        assert (new.passive_tracking, new.next_action) == (False, State.UNKNOWN)


def test_a_service_that_the_site_config_no_longer_names_is_observed_as_it_runs() -> None:
    s = service()
    appears(s)
    changes = applied(s, with_services(site(), catalog("ocs-a")))
    assert changes.dropped == ("a",)
    assert changes.changed["ocs-a"].wanted.target is Target.PASSIVE
    assert all(not i.retired for i in changes.changed.values())


def test_hands_change_under_one_name_when_there_is_no_prefix() -> None:
    plain = replace(catalog("a"), prefix="")
    s = Script(new_instance(with_services(HostSpec("host"), plain).instances[0]))
    appears(s)
    changes = applied(s, with_services(site("a"), plain))
    assert (changes.dropped, list(changes.changed)) == ((), ["a"])
    assert (changes.changed["a"].wanted.target, changes.changed["a"].wanted.successor) == (Target.UP, None)


def test_a_service_that_leaves_the_compose_file_is_let_go_and_found_again_when_it_returns() -> None:
    s = service()
    appears(s)
    changes = applied(s, with_services(site("a"), catalog()))
    s.i = changes.changed["a"]
    assert s.decide() == []
    assert (s.i.observed.run, s.i.standing.state, s.i.operable) == (None, State.UNKNOWN, False)
    s.i = applied(s, with_services(site("a"), catalog("ocs-a"))).changed["a"]
    assert s.decide() == []
    appears(s, 2)
    assert (s.i.standing.state, s.i.wanted.target) == (State.UP, Target.UP)


def test_an_observed_service_that_leaves_the_compose_file_leaves_the_list_as_it_runs() -> None:
    s = observed("db")
    s.see(ServiceObserved("db", UP), Appeared(RunKey("db", 1), 1, s.now))
    changes = applied(s, HostSpec("host"))
    assert (changes.dropped, dict(changes.changed)) == (("db",), {})


def test_a_change_of_management_ends_the_process_before_the_service_is_looked_for() -> None:
    native = InstanceSpec("a", "Agent", process=ProcessSpec(("agent",)))
    s = Script(new_instance(native)).up()
    s.i = applied(s, with_services(site("a"), catalog("ocs-a"))).changed["a"]
    (stop,) = s.decide()
    assert isinstance(stop, Stop)
    s.ends()
    assert (s.i.wanted.management, s.i.next_action, s.i.observed.run) == (
        Management.DOCKER,
        State.UNKNOWN,
        None,
    )
    (launch,) = s.see(ServiceObserved("a", DOWN))
    assert isinstance(launch, Launch)


def test_a_changed_image_tag_restarts_nothing() -> None:
    s = service()
    appears(s)
    changed = replace(SERVICE, image="agent:2", replicas=1)
    host = HostSpec("host", (replace(s.i.spec, service=changed),))
    s.i = applied(s, host).changed["a"]
    assert s.decide() == []
    assert s.i.standing.state is State.UP


def test_letting_go_leaves_it_running_and_only_observed() -> None:
    s = service()
    appears(s)
    s.i = plan.observe(s.i)
    assert s.decide() == []
    s.i = plan.set_targets({"a": s.i}, [TargetChange("a", Target.PASSIVE)])["a"]
    assert (s.i.standing.state, s.i.passive_tracking, s.i.should_end) == (State.UP, True, False)
