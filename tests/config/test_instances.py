"""Instances: OCS's grammar, additional keys, and places of problems."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from hostmanager_server.config.load import LoadedConfig
from hostmanager_server.core.spec import (
    Backoff,
    CommandProbe,
    HealthCheckProbe,
    HttpProbe,
    InstanceSpec,
    LivenessProbe,
    Management,
    ProcessSpec,
    ReadinessProbe,
    RestartPolicy,
    RestartWhen,
    StopPolicy,
    Target,
    TcpProbe,
)

Instances = Callable[..., LoadedConfig]
Load = Callable[[str], LoadedConfig]
Errors = Callable[[LoadedConfig], list[tuple[int, int, str]]]

HOST_UP = (Management.HOST, Target.UP)
HOST_DOWN = (Management.HOST, Target.DOWN)


def only(config: LoadedConfig) -> InstanceSpec:
    assert config.spec is not None, config.problems
    [spec] = config.spec.instances
    return spec


def process(config: LoadedConfig) -> ProcessSpec:
    found = only(config).process
    assert found is not None
    return found


# --- manage


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("yes 'yes' Yes YES on On true True TRUE host 'host' up 'up' host/up null ~", HOST_UP),
        ("down 'down' host/down 'host/down'", HOST_DOWN),
        ("docker 'docker' docker/up", (Management.DOCKER, Target.UP)),
        ("docker/down", (Management.DOCKER, Target.DOWN)),
        ("no 'no' No NO off Off false False FALSE ignore 'ignore'", None),
    ],
)
def test_manage_means_what_it_means_in_ocs_quoted_or_not(
    instances: Instances, words: str, expected: tuple[Management, Target] | None
) -> None:
    for word in words.split():
        config = instances(f"instance-id: a, manage: {word}")
        assert config.spec is not None, (word, config.problems)
        assert [(s.management, s.initial_target) for s in config.spec.instances] == (
            [expected] if expected else []
        ), word


def test_an_instance_without_manage_is_a_native_one_that_is_up(instances: Instances) -> None:
    spec = only(instances("instance-id: a"))
    assert (spec.management, spec.initial_target) == HOST_UP


def test_instances_share_equal_policies(instances: Instances) -> None:
    texts = [f"instance-id: {name}, restart: {{backoff: {{initial: {initial}}}}}" for name, initial in
             (("a", 7), ("b", 7), ("c", 8))]  # fmt: skip
    spec = instances(*texts).spec
    assert spec is not None
    first, second, third = spec.instances
    assert first.restart is second.restart
    assert first.restart != third.restart
    assert first.log is second.log is third.log
    assert first.stop is second.stop is third.stop
    assert first.agent_class is second.agent_class


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("hots", "did you mean 'host'?"),
        ("UP", "did you mean 'up'?"),
        ("7", "known: yes,"),
    ],
)
def test_an_unknown_manage_is_an_error_with_a_suggestion(
    instances: Instances, errors: Errors, word: str, hint: str
) -> None:
    [(line, column, message)] = errors(instances(f"instance-id: a, manage: {word}"))
    assert (line, column) == (5, 52)
    assert hint in message


# --- ids and classes


def test_a_second_entry_of_an_id_is_an_error_that_names_both_places(
    instances: Instances, errors: Errors
) -> None:
    config = instances("instance-id: a", "instance-id: b", "instance-id: a")
    assert errors(config) == [(7, 41, "instance-id 'a' is there twice (first in line 5)")]
    assert config.spec is None


def test_an_entry_with_no_id_or_no_class_is_an_error_at_its_place(load: Load, errors: Errors) -> None:
    config = load("hosts: {localhost: {agent-instances: [{agent-class: A}, {instance-id: b}, c]}}")
    assert errors(config) == [
        (1, 39, "an entry of class 'A' of 'agent-instances' has no 'instance-id'"),
        (1, 57, "instance 'b' has no 'agent-class'"),
        (1, 75, "an entry of 'agent-instances' must be a mapping (key: value)"),
    ]


@pytest.mark.parametrize("bad", ["all", "''", "a/b", '"a\\n"', "' a'", '"a\\0"', "null", "[a]", "x" * 81])
def test_an_id_that_could_be_mistaken_is_refused(instances: Instances, errors: Errors, bad: str) -> None:
    [(line, column, message)] = errors(instances(f"instance-id: {bad}"))
    assert (line, column) == (5, 41)
    assert "instance-id" in message


def test_a_number_is_an_id_as_it_is_written(instances: Instances) -> None:
    assert only(instances("instance-id: 0372")).instance_id == "0372"


# --- the command and its environment


def test_arguments_follow_the_command_flattened_and_as_they_are_written(instances: Instances) -> None:
    config = instances("instance-id: a, arguments: [--port, 18086, [--x, [1.50, yes]], -5, '']")
    assert process(config).argv == ("agent", "--go", "--port", "18086", "--x", "1.50", "yes", "-5", "")
    assert process(config).source == "agent-classes"


@pytest.mark.parametrize("bad", ["--mode acq", "{a: b}", "[{a: b}]", "[null]", '["\\0"]'])
def test_arguments_that_are_no_list_of_texts_are_an_error(
    instances: Instances, errors: Errors, bad: str
) -> None:
    [(_, _, message)] = errors(instances(f"instance-id: a, arguments: {bad}"))
    assert "'arguments' of instance 'a'" in message


@pytest.mark.parametrize(
    ("written", "words"),
    [("[run, a b, $HOME]", ("run", "a b", "$HOME")), ("run 'a b' $HOME", ("run", "a b", "$HOME"))],
)
def test_an_instances_own_command_comes_before_its_class(
    instances: Instances, written: str, words: tuple[str, ...]
) -> None:
    config = instances(f"instance-id: a, arguments: [-v], command: {written}")
    assert process(config).argv == (*words, "-v")
    assert process(config).source == "command"


@pytest.mark.parametrize("bad", ["''", "[]", "['']", '"a \'b"', "null", "{a: b}", '"a\\0b"'])
def test_a_command_that_names_no_program_is_an_error(instances: Instances, errors: Errors, bad: str) -> None:
    [(line, column, message)] = errors(instances(f"instance-id: a, command: {bad}"))
    assert (line, column) == (5, 53)
    assert "'command' of instance 'a'" in message


def test_an_unknown_class_is_a_warning_and_an_instance_that_says_why(instances: Instances) -> None:
    config = instances("agent-class: Agnet, instance-id: a")
    spec = only(config)
    assert spec.process is None
    assert spec.problem.startswith("agent class 'Agnet' has no command (did you mean 'Agent'?)")
    [warning] = config.problems
    assert (warning.line, warning.column) == (5, 21)
    assert spec.problem in warning.message


def test_an_instance_overrides_its_class_key_by_key_and_env_limits_and_log_name_by_name(load: Load) -> None:
    config = load(
        """
agent-classes:
  Agent:
    command: agent
    env: {A: class, B: class}
    limits: {nofile: 100, core: 0}
    log: {size: 1M, keep: 2}
    stop-signal: TERM
    start-timeout: 3
hosts:
  localhost:
    agent-instances:
    - agent-class: Agent
      instance-id: a
      env: {B: own, C: yes}
      limits: {core: unlimited, as: 2G}
      log: {keep: 0}
      start-timeout: 1m30s
"""
    )
    spec = only(config)
    assert process(config).env == (("A", "class"), ("B", "own"), ("C", "yes"))
    assert process(config).limits == (("as", 2**31), ("core", None), ("nofile", 100))
    assert (spec.log.size, spec.log.keep) == (2**20, 0)
    assert spec.stop.signal == signal.SIGTERM
    assert spec.start_timeout == 90


@pytest.mark.parametrize(("setting", "user"), [("user: daq, ", "daq"), ("", "")])
def test_output_files_may_belong_to_the_user_of_the_agent(load: Load, setting: str, user: str) -> None:
    instance = f"{{instance-id: a, agent-class: A, {setting}command: x}}"
    config = load(f"hosts: {{localhost: {{agent-instances: [{instance}]}}}}")
    assert only(config).log.user == user


def test_relative_paths_are_relative_to_the_working_directory(load: Load, tmp_path: object) -> None:
    config = load(
        "hosts: {localhost: {log-dir: ./logs, agent-instances: "
        "[{instance-id: a, agent-class: A, command: x, working-dir: sub}]}}"
    )
    assert only(config).log.directory == f"{tmp_path}/logs"
    assert process(config).working_dir == f"{tmp_path}/sub"


@pytest.mark.parametrize(
    ("written", "policy"),
    [
        ("never", RestartPolicy(RestartWhen.NEVER)),
        ("{policy: on-failure}", RestartPolicy(RestartWhen.ON_FAILURE)),
        (
            "{backoff: {initial: 1s, factor: 1.5, maximum: 1m, reset-after: 1h}}",
            RestartPolicy(RestartWhen.ALWAYS, Backoff(1, 1.5, 60, 3600)),
        ),
        ("{give-up-after: 5}", RestartPolicy(give_up_after=5)),
    ],
)
def test_restart(instances: Instances, written: str, policy: RestartPolicy) -> None:
    assert only(instances(f"instance-id: a, restart: {written}")).restart == policy


@pytest.mark.parametrize(
    ("written", "policy"),
    [
        ("stop-timeout: 3", StopPolicy(signal.SIGINT, 3, 5)),
        ("stop-timeout: [500ms, 0]", StopPolicy(signal.SIGINT, 0.5, 0)),
        ("stop-signal: hup", StopPolicy(signal.SIGHUP)),
        ("stop-signal: SIGQUIT", StopPolicy(signal.SIGQUIT)),
        ("stop-signal: 15", StopPolicy(signal.SIGTERM)),
    ],
)
def test_stop(instances: Instances, written: str, policy: StopPolicy) -> None:
    assert only(instances(f"instance-id: a, {written}")).stop == policy


@pytest.mark.parametrize(
    ("written", "probe"),
    [
        ("{tcp: '127.0.0.1:5000'}", ReadinessProbe(TcpProbe("127.0.0.1", 5000))),
        ("{tcp: 5000, interval: 100ms, timeout: 1}", ReadinessProbe(TcpProbe("127.0.0.1", 5000), 0.1, 1)),
        ("{tcp: '[::1]:5000'}", ReadinessProbe(TcpProbe("::1", 5000))),
        ("{http: 'http://localhost:80/h'}", ReadinessProbe(HttpProbe("http://localhost:80/h"))),
        ("{command: test -e x}", ReadinessProbe(CommandProbe(("test", "-e", "x")))),
    ],
)
def test_ready(instances: Instances, written: str, probe: ReadinessProbe) -> None:
    assert only(instances(f"instance-id: a, ready: {written}")).ready == probe


@pytest.mark.parametrize(
    ("written", "probe"),
    [
        ("alive: {tcp: 5000}", LivenessProbe(TcpProbe("127.0.0.1", 5000))),
        ("alive: {tcp: 5000, interval: 1m}", LivenessProbe(TcpProbe("127.0.0.1", 5000), 60.0, delay=60.0)),
        (
            "alive: {command: x, interval: 2, timeout: 3, failures: 4, delay: 0}",
            LivenessProbe(CommandProbe(("x",)), 2, 3, 4, 0),
        ),
        ("manage: docker, alive: healthcheck", LivenessProbe(HealthCheckProbe())),
        ("manage: docker, alive: {tcp: 1}", LivenessProbe(TcpProbe("127.0.0.1", 1))),
    ],
)
def test_alive(instances: Instances, written: str, probe: LivenessProbe) -> None:
    assert only(instances(f"instance-id: a, {written}")).alive == probe


@pytest.mark.parametrize(
    ("manage", "probe", "remedy"),
    [
        ("docker", "ready: {command: x}", "'ready' of the class of instance 'a' cannot be a command"),
        ("docker", "alive: {command: x}", "use tcp, http or healthcheck"),
        ("host", "alive: healthcheck", "'alive' of the class of instance 'a' cannot be healthcheck"),
    ],
)
def test_a_probe_of_the_class_must_fit_the_instance(
    load: Load, errors: Errors, manage: str, probe: str, remedy: str
) -> None:
    text = f"agent-classes: {{A: {{command: a, {probe}}}}}\nhosts: {{localhost: {{agent-instances: [\n"
    ((line, column, message),) = errors(
        load(f"{text} {{instance-id: a, agent-class: A, manage: {manage}}}]}}}}")
    )
    assert (line, column) == (3, 32)
    assert remedy in message


@pytest.mark.parametrize(
    "wrong",
    [
        "start-timeout: soon",
        "start-timeout: 0",
        "start-timeout: nan",
        "start-timeout: yes",
        "start-timeout: []",
        "start-timeout: 2 days",
        f"start-timeout: {'9' * 5000}",
        "stop-timeout: [1, 2, 3]",
        "stop-timeout: -1",
        "stop-signal: TRM",
        "stop-signal: 0",
        "stop-signal: ²",
        "stop-signal: [INT]",
        f"stop-signal: {'9' * 5000}",
        "restart: sometimes",
        "restart: {policy: 3}",
        "restart: {backoff: {factor: 0.5}}",
        "restart: []",
        "restart: {backoff: {initial: inf}}",
        "restart: null",
        "restart: {give-up-after: 0}",
        "restart-dependents: 1",
        "run-arguments: please",
        "up-after: -1",
        "ready: {}",
        "ready: {tcp: x}",
        "ready: {tcp: 'x:²'}",
        "ready: {tcp: 1, http: 'http://x'}",
        "ready: {http: 'http://['}",
        "ready: {http: 'http://x:99999'}",
        "ready: {http: file}",
        "ready: {tcp: 1, timeout: 0}",
        "ready: tcp",
        "alive: tcp",
        "alive: healthcheck",
        "alive: {tcp: 1, failures: 0}",
        "alive: {tcp: 1, delay: -1}",
        "alive: {interval: 1}",
        f"ready: {{tcp: {'9' * 5000}}}",
        "depends-on: b",
        "depends-on: [[b]]",
        "env: [A]",
        "env: {'A=B': c}",
        "env: {A: null}",
        "env: {'': c}",
        "env: {A: {}}",
        'env: {A: "\\0"}',
        "limits: {nofil: 3}",
        "limits: {nofile: many}",
        "limits: {nofile: -1}",
        "log: {size: 1}",
        f"log: {{size: {'9' * 400}}}",
        "log: {keep: 1001}",
        "log: big",
        "user: ''",
        "user: []",
        "working-dir: ''",
        "working-dir: ~no-such-user/x",
        'working-dir: "\\0"',
    ],
)
def test_a_wrong_value_is_an_error_with_a_place(instances: Instances, errors: Errors, wrong: str) -> None:
    found = errors(instances(f"instance-id: a, {wrong}"))
    assert len(found) == 1, found
    line, column, message = found[0]
    assert line == 5
    assert column > 44
    assert wrong.partition(":")[0] in message
    assert len(message) < 300


# --- properties of processes


@pytest.mark.parametrize(
    ("keys", "changes"),
    [
        ("umask: 027", {"umask": 0o027}),
        ("umask: '22'", {"umask": 0o022}),
        ("umask: 0o077", {"umask": 0o077}),
        ("nice: -5", {"nice": -5}),
        ("nice: 19", {"nice": 19}),
        ("group: daq", {"group": "daq"}),
        ("group: 1234", {"group": "1234"}),
        ("user: 4711", {"user": "4711"}),
    ],
)
def test_properties_of_a_process_reach_its_spec(
    instances: Instances, keys: str, changes: dict[str, object]
) -> None:
    found = process(instances(f"instance-id: a, {keys}"))
    assert {name: getattr(found, name) for name in changes} == changes


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("umask: 8", "must be an octal number from 000 to 777, such as 027, not '8'"),
        ("umask: 1777", "must be an octal number from 000 to 777, such as 027, not '1777'"),
        ("umask: [2]", "must be an octal number from 000 to 777, such as 027, not a list"),
        ("nice: 20", "must be a whole number from -20 to 19, not '20'"),
        ("group: ''", "must be a group's name or number, not an empty text"),
        ("stop-signal: RTMIN+31", "must be a signal, not 'RTMIN+31' (such as INT, TERM, RTMIN+3 or 15)"),
        ("stop-signal: HOP", "must be a signal, not 'HOP' (did you mean 'HUP'?)"),
        ("success-codes: 256", "takes exit codes from 0 to 255 and names of signals, not '256'"),
        ("success-codes: [0, TREM]", "not 'TREM' (did you mean 'TERM'?)"),
        ("success-codes: KILL", "an agent cannot end itself by it"),
    ],
)
def test_a_wrong_property_of_a_process_is_an_error_at_its_place(
    instances: Instances, errors: Errors, key: str, why: str
) -> None:
    [(line, column, message)] = errors(instances(f"instance-id: a, {key}"))
    assert (line, why in message) == (5, True), message
    assert column > len("    - {agent-class: Agent, instance-id: a, ")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("RTMIN+3", signal.SIGRTMIN + 3),
        ("SIGRTMIN", signal.SIGRTMIN),
        ("rtmax-2", signal.SIGRTMAX - 2),
        ("37", 37),
    ],
)
def test_a_stop_signal_may_be_a_real_time_signal(instances: Instances, text: str, number: int) -> None:
    assert only(instances(f"instance-id: a, stop-signal: {text}")).stop.signal == number


@pytest.mark.parametrize(
    ("text", "codes"), [("2", (2,)), ("[0, 3, 2]", (0, 2, 3)), ("[TERM, 143]", (-15, 143)), ("[]", ())]
)
def test_success_codes_are_exit_codes_and_signals(
    instances: Instances, text: str, codes: tuple[int, ...]
) -> None:
    assert only(instances(f"instance-id: a, success-codes: {text}")).success_codes == codes


def test_properties_of_a_process_are_ignored_for_a_compose_service(instances: Instances) -> None:
    config = instances("instance-id: a, manage: docker, umask: 022, nice: 5, group: daq, success-codes: 2")
    ignored = [problem.message.split("'")[1] for problem in config.problems]
    assert ignored == ["group", "nice", "umask"]
    assert only(config).success_codes == (2,)


def test_memory_and_restart_above_are_sizes_of_native_processes(instances: Instances, errors: Errors) -> None:
    config = instances("instance-id: a, memory: 2G, restart-above: 1.5G")
    assert process(config).memory == 2 * 2**30
    assert only(config).restart_above == 3 * 2**29
    assert config.problems == ()
    assert only(instances("instance-id: a")).restart_above is None
    wrong = errors(instances("instance-id: a, memory: 2x, restart-above: 10k"))
    assert [message.split(" must")[0] for _, _, message in wrong] == [
        "'memory' of instance 'a'",
        "'restart-above' of instance 'a'",
    ]
    docker = instances("instance-id: a, manage: docker, memory: 1G, restart-above: 1G")
    assert only(docker).restart_above is None
    assert [problem.message.split(" ")[0] for problem in docker.problems] == ["'memory'", "'restart-above'"]
