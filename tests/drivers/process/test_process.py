"""The process driver with real processes, beyond the abilities of a fake."""

from __future__ import annotations

import errno
import gc
import os
import pwd
import resource
import shutil
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hostmanager_server.core.events import Exited, ExitStatus, Gone, Ready, RunKey, Started, StartFailed
from hostmanager_server.core.spec import InstanceSpec, LogPolicy, ProcessSpec, ReadinessProbe, TcpProbe
from hostmanager_server.drivers.exec import gate

from tests.drivers.conftest import PlainOutput

if TYPE_CHECKING:
    from tests.drivers.conftest import ProcessHarness

A = RunKey("a", 1)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may switch users")


def with_process(spec: InstanceSpec, **changes: object) -> InstanceSpec:
    assert spec.process is not None
    return replace(spec, process=replace(spec.process, **changes))  # type: ignore[arg-type]  # any field


def why_failed(real: ProcessHarness, spec: InstanceSpec) -> str:
    real.driver.launch(A, spec)
    assert [type(event) for event in real.events] == [StartFailed]
    failed = real.events[0]
    assert isinstance(failed, StartFailed)
    assert real.records() == []
    return failed.why


def status(real: ProcessHarness) -> ExitStatus:
    return next(event.status for event in real.events if isinstance(event, Exited))


def gone(real: ProcessHarness, run: RunKey = A) -> bool:
    return any(isinstance(event, Gone) and event.run == run for event in real.events)


@pytest.mark.parametrize("code", [0, 1, 77, 255])
def test_exit_codes_are_reported(real: ProcessHarness, code: int) -> None:
    real.run(real.script("a", f"exit {code}"))
    assert status(real) == ExitStatus(code=code)


def test_a_fatal_signal_is_reported_and_leaves_no_zombie(real: ProcessHarness) -> None:
    real.run(real.script("a", "kill -SEGV $$"))
    assert status(real) == ExitStatus(signal=signal.SIGSEGV)
    assert not Path(f"/proc/{real.pid('a')}").exists()


def test_the_agent_keeps_the_pid_of_its_gate(real: ProcessHarness) -> None:
    assert real.run(real.script("a", "echo $$")) == f"{real.pid('a')}\n"


def test_environment_and_directory_are_the_spec_s(
    real: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRPC_ENABLE_FORK_SUPPORT", "0")
    monkeypatch.setenv("OLDPWD", "/nowhere")
    monkeypatch.setenv("odd.name%%", "kept")
    real.replace_driver()
    (real.directory / "work dir").mkdir()
    spec = with_process(
        real.command("a", "env"),
        working_dir=str(real.directory / "work dir"),
        env=(("COLOUR", "blue\nand 'red'"), ("EMPTY", "")),
    )
    output = real.run(spec)
    assert "COLOUR=blue\nand 'red'\n" in output
    assert "EMPTY=\n" in output
    assert "odd.name%%=kept\n" in output
    assert "HOSTMANAGER_INSTANCE_ID=a\n" in output
    assert f"PWD={real.directory}/work dir\n" in output
    assert "GRPC_ENABLE_FORK_SUPPORT" not in output
    assert "HOSTMANAGER_GATE" not in output
    assert (
        real.run(replace(with_process(spec, argv=("pwd",)), instance_id="b"))
        == f"{real.directory}/work dir\n"
    )


def test_arguments_pass_unchanged(real: ProcessHarness) -> None:
    words = ("-n", "", "two words", "$HOME `x` \\", "ümlaut\n")
    output = real.run(real.command("a", "printf", "<%s>", *words))
    assert output == "".join(f"<{word}>" for word in words)


def test_an_agent_inherits_its_output_and_its_lock_and_nothing_else(real: ProcessHarness) -> None:
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)  # a shell or make may leave such a descriptor open
    try:
        real.replace_driver()
        script = "import os; print(sorted((int(n), os.path.realpath(f'/proc/self/fd/{n}')) "
        script += "for n in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{n}')))"
        output = real.run(real.command("a", sys.executable, "-c", script))
    finally:
        os.close(read_end)
        os.close(write_end)
    log = str(real.directory / "log" / "a.log")
    record = str(real.directory / "runs" / "a.json")
    assert eval(output) == [(0, "/dev/null"), (1, log), (2, log), (gate.lock_descriptor(), record)]


def test_an_agent_starts_with_default_signals(real: ProcessHarness) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a shell's background job starts like this
    try:
        output = real.run(real.command("a", "grep", "^Sig[BI]", "/proc/self/status"))
    finally:
        signal.signal(signal.SIGINT, before)
    _, blocked, _, ignored = output.split()
    internal = 1 << (32 - 1) | 1 << (33 - 1)  # signals of the C library, which posix_spawn leaves ignored
    assert int(blocked, 16) == 0
    assert int(ignored, 16) & ~internal == 0


def test_the_main_process_founds_a_session(real: ProcessHarness) -> None:
    fields = real.run(real.command("a", "cat", "/proc/self/stat")).rpartition(")")[2].split()
    assert int(fields[2]) == int(fields[3]) == real.pid("a")


def test_limits_are_set_before_the_agent_runs(real: ProcessHarness) -> None:
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    spec = with_process(real.command("a", "cat", "/proc/self/limits"), limits=(("core", 0), ("nofile", 64)))
    lines = real.run(spec).splitlines()
    assert next(line for line in lines if line.startswith("Max open files")).split()[3:5] == ["64", "64"]
    assert next(line for line in lines if line.startswith("Max core file size")).split()[4:6] == ["0", "0"]
    assert resource.getrlimit(resource.RLIMIT_CORE)[1] == hard


def test_an_unlimited_limit(real: ProcessHarness) -> None:
    spec = with_process(real.command("a", "grep", "cpu time", "/proc/self/limits"), limits=(("cpu", None),))
    assert real.run(spec).split()[3:5] == ["unlimited", "unlimited"]


@pytest.mark.parametrize(("limit", "value"), [("nofile", 2**50), ("nonsense", 1), ("core", -7)])
def test_a_limit_that_cannot_be_set_fails_the_start_by_its_name(
    real: ProcessHarness, limit: str, value: int
) -> None:
    why = why_failed(real, with_process(real.command("a", "true"), limits=((limit, value),)))
    assert f"limit '{limit}'" in why


@as_root
def test_a_user_is_switched_to_with_groups_and_home(real: ProcessHarness) -> None:
    nobody = pwd.getpwnam("nobody")
    real.directory.chmod(0o755)
    spec = real.script("a", "id -u; id -g; id -G; echo $HOME $USER $LOGNAME; kill -INT $$")
    output = real.run(with_process(spec, user="nobody")).splitlines()
    assert output[:2] == [str(nobody.pw_uid), str(nobody.pw_gid)]
    assert output[2].split() == [str(group) for group in os.getgrouplist("nobody", nobody.pw_gid)]
    assert output[3].split() == [nobody.pw_dir, "nobody", "nobody"]
    assert status(real) == ExitStatus(signal=signal.SIGINT)


def test_the_own_user_needs_no_privilege(real: ProcessHarness) -> None:
    own = pwd.getpwuid(os.geteuid()).pw_name
    spec = with_process(real.script("a", "echo $USER $HOSTMANAGER_INSTANCE_ID"), user=own)
    assert real.run(spec).split() == [own, "a"]


def test_an_unknown_user_fails_the_start(real: ProcessHarness) -> None:
    assert "no user 'nobody-here'" in why_failed(
        real, with_process(real.command("a", "true"), user="nobody-here")
    )


def test_a_missing_program_fails_the_start(real: ProcessHarness) -> None:
    assert "'no-such-agent' is not found in PATH" in why_failed(real, real.command("a", "no-such-agent"))


def test_a_program_is_looked_for_in_the_agent_s_own_path(real: ProcessHarness) -> None:
    program = real.directory / "agent"
    program.write_text("#!/bin/sh\necho found\n")
    program.chmod(0o755)
    spec = with_process(real.command("a", "agent"), env=(("PATH", str(real.directory)),))
    assert real.run(spec) == "found\n"


def test_a_program_that_is_not_executable_fails_the_start(real: ProcessHarness) -> None:
    program = real.directory / "agent"
    program.write_text("#!/bin/sh\n")
    assert "is not executable" in why_failed(real, real.command("a", str(program)))


def test_a_missing_directory_fails_the_start(real: ProcessHarness) -> None:
    spec = with_process(real.command("a", "true"), working_dir="/nowhere/at/all")
    assert "'/nowhere/at/all' does not exist" in why_failed(real, spec)


def test_a_nul_byte_fails_the_start(real: ProcessHarness) -> None:
    assert "null byte" in why_failed(real, real.command("a", "true", "a\0b"))


def test_a_command_line_too_long_fails_the_start(real: ProcessHarness) -> None:
    assert "longer than the kernel takes" in why_failed(real, real.command("a", "true", "x" * 3_000_000))


def test_an_unwritable_log_directory_fails_the_start(real: ProcessHarness) -> None:
    (real.directory / "log").write_text("a file where the directory should be")
    assert f"{real.directory}/log" in why_failed(real, real.command("a", "true"))


@pytest.mark.parametrize("spare", range(8))
def test_without_descriptors_a_start_fails_and_leaves_nothing(real: ProcessHarness, spare: int) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.dup(0)
    os.close(probe)
    gc.collect()  # frees objects of other tests
    before = sorted(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe + spare, limits[1]))
    try:
        real.driver.launch(A, real.command("a", "true"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    first = real.events[0]
    if isinstance(first, Started):
        real.wait_for(lambda: gone(real))
    else:
        assert isinstance(first, StartFailed)
        assert "no file descriptors left" in first.why
        assert not real.alive("a")
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert real.records() == []


def test_descriptors_return_to_their_baseline_after_200_runs(real: ProcessHarness) -> None:
    real.run(real.command("warm-up", "true"))
    gc.collect()  # frees objects of other tests
    before = len(os.listdir("/proc/self/fd"))
    for number in range(200):
        real.driver.launch(RunKey(f"i{number}", 1), real.command(f"i{number}", "true"))
    real.wait_for(lambda: sum(isinstance(event, Gone) for event in real.events) == 201)
    assert len(os.listdir("/proc/self/fd")) == before
    assert real.poller.watched == 0
    assert real.records() == []


def test_a_signal_to_a_run_in_its_gate_ends_it(real: ProcessHarness) -> None:
    real.driver.launch(A, real.command("a", "sleep", "1000"))
    real.driver.stop(A, signal.SIGKILL, whole_tree=False)
    real.wait_for(lambda: gone(real))
    assert status(real) == ExitStatus(signal=signal.SIGKILL)


def test_a_wake_up_for_another_descriptor_is_no_exit(real: ProcessHarness) -> None:
    real.driver.launch(A, real.command("a", "sleep", "1000"))
    real.poller.wake_all()
    assert [type(event) for event in real.events] == [Started, Ready]
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))


def test_instance_ids_may_contain_anything(real: ProcessHarness) -> None:
    ids = ["..", "a/b", "ü \n*", "x" * 300, "%2F", ".hidden"]
    real.driver = real.new_driver(_NullOutput(real.directory))
    for name in ids:
        real.driver.launch(RunKey(name, 1), real.command(name, "sleep", "1000"))
    assert [event.run.instance_id for event in real.events if isinstance(event, Started)] == ids
    assert len(real.records()) == len(ids)
    for name in ids:
        real.driver.stop(RunKey(name, 1), signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: sum(isinstance(event, Gone) for event in real.events) == len(ids))


def test_a_tcp_probe_waits_for_the_port(real: ProcessHarness) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        spec = replace(
            real.script("a", "exec sleep 1000"),
            ready=ReadinessProbe(TcpProbe("127.0.0.1", port), interval=0.01),
        )
        real.driver.launch(A, spec)
        real.poller.turn(0.05)
        assert not any(isinstance(event, Ready) for event in real.events)
        listener.listen()
        real.wait_for(lambda: any(isinstance(event, Ready) for event in real.events))


class _NullOutput(PlainOutput):
    def open_for_append(self, instance_id: str, policy: LogPolicy) -> int:
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def test_an_empty_spec_is_refused(real: ProcessHarness) -> None:
    assert "its command is empty" in why_failed(real, InstanceSpec("a", "Test", process=ProcessSpec(())))


def test_a_removed_state_directory_is_created_again(real: ProcessHarness) -> None:
    shutil.rmtree(real.directory / "runs")
    real.driver.launch(A, real.command("a", "sleep", "1000"))
    assert [type(event) for event in real.events] == [Started, Ready]
    assert len(real.records()) == 1
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))


def test_a_run_that_cannot_be_watched_fails_to_start(
    real: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(fd: int, callback: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    with monkeypatch.context() as broken:
        broken.setattr(real.poller, "watch", no_memory)
        real.driver.launch(A, real.command("a", "sleep", "1000"))
    (failed,) = real.events
    assert isinstance(failed, StartFailed)
    assert "out of memory" in failed.why
    assert not real.alive("a")
    assert real.records() == []
    real.driver.launch(RunKey("a", 2), real.command("a", "sleep", "1000"))
    assert [type(event) for event in real.events[1:]] == [Started, Ready]
    real.driver.stop(RunKey("a", 2), signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: isinstance(real.events[-1], Gone))


def last_output(real: ProcessHarness, run: RunKey = A) -> str:
    return next(e.last_output for e in real.events if isinstance(e, Exited) and e.run == run)


def test_an_end_tells_the_last_lines_of_its_own_run(real: ProcessHarness) -> None:
    real.run(real.script("a", "seq 1 7; printf '10%%\\r90%%'; exit 3"))
    assert last_output(real) == "4\n5\n6\n7\n90%"
    real.events.clear()
    second = RunKey("a", 2)
    real.driver.launch(second, real.script("a", "exit 4"))
    real.wait_for(lambda: gone(real, second))
    assert last_output(real, second) == ""


def test_an_end_is_told_when_the_output_file_is_gone(real: ProcessHarness) -> None:
    log = real.directory / "log" / "a.log"
    real.driver.launch(A, real.script("a", f"echo said; rm {log}; mkfifo {log}; exit 3"))
    real.wait_for(lambda: gone(real))
    assert (status(real), last_output(real)) == (ExitStatus(code=3), "")


def test_the_limit_of_cpu_time_is_told(real: ProcessHarness) -> None:
    real.run(with_process(real.script("a", "while :; do :; done"), limits=(("cpu", 1),)))
    assert status(real) == ExitStatus(signal=signal.SIGKILL, limit="cpu")


def test_another_kill_below_the_limit_is_not_taken_for_the_limit(real: ProcessHarness) -> None:
    real.run(with_process(real.script("a", "kill -KILL $$"), limits=(("cpu", 1),)))
    assert status(real) == ExitStatus(signal=signal.SIGKILL)


def test_the_limit_of_file_sizes_is_told(real: ProcessHarness) -> None:
    spec = real.script("a", f"ulimit -c 0; exec head -c 9000 /dev/zero > {real.directory}/big")
    real.run(with_process(spec, limits=(("fsize", 4096),)))
    assert status(real) == ExitStatus(signal=signal.SIGXFSZ, limit="fsize")


def test_a_core_dump_is_told(real: ProcessHarness) -> None:
    if Path("/proc/sys/kernel/core_pattern").read_text().startswith("|"):
        pytest.skip("another program receives core dumps here")
    spec = real.script("a", f"cd {real.directory}; kill -SEGV $$")
    real.run(with_process(spec, limits=(("core", None),)))
    assert status(real) == ExitStatus(signal=signal.SIGSEGV, core_dumped=True)
