"""Test agent that holds a lock during its life, and keeps a journal of starts, beats and signals.

A script, not a module: `python -I -S agent.py KIND INSTANCE FOLDER BEAT`. The script imports few modules, as
the daemon starts agents very often. The referee relies on these journals and on the kernel, never on the
daemon.

PID.START identifies a process; START is the kernel start time in clock ticks since boot. A line of the
journal is `WORD PID.START TIME NAME=VALUE ...`, with TIME in s since boot:

    started     the process runs; role=main or the name of a descendant, run=the daemon's marker of the run
    beat        the process still runs; n counts from 1, lines is the number of output lines so far
    signalled   a signal arrived; from=the pid of the sender
    ended       the process ends because of a stop signal
    leaving     the process ends without a signal
    locked_out  another process holds the lock of this process
"""

import fcntl
import os
import signal
import sys
import time

_STOPS = {signal.SIGINT, signal.SIGTERM}
_SIGNALS = {
    *_STOPS,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGCONT,
}
_READY_AFTER = 0.15  # s until a slow agent is ready
_LIVES = (0.3, 3.0)  # shortest and longest life of a crasher, in s
_EXITS = (0, 1, 3, 77, -signal.SIGKILL, -signal.SIGABRT)  # exit codes of a crasher; negative: a signal
_DESCRIPTORS = 1024  # beyond the highest inherited descriptor
_LINES = 20  # output lines per beat


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _identity() -> str:
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return f"{os.getpid()}.{int(fields[19])}"


class LifeJournal:
    """A journal file; each line is one write, so lines of several processes never mix."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.name = _identity()

    def write(self, word: str, **values: object) -> None:
        rest = "".join(f" {name}={value}" for name, value in values.items())
        os.write(self._file, f"{word} {self.name} {_now():.6f}{rest}\n".encode())


def _take_lock(path: str, journal: LifeJournal) -> int:
    """Take the lock for life and write this process into it, or record the present holder."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 100).decode().strip() or "unknown"
        journal.write("locked_out", lock=os.path.basename(path), holder=holder)
    else:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{journal.name}\n".encode(), 0)
    return lock


def _probe_lock(path: str, journal: LifeJournal) -> None:
    """Record if another process holds the lock that a descendant will take."""
    os.close(_take_lock(path, journal))


def _fork_away(index: int, words: list[str]) -> bool:
    """Fork a descendant outside of the session and the process tree; return True in the descendant.

    The first is known by its environment only, the second by its open descriptors, the third by the resource
    limit that is the mark of its run.
    """
    if os.fork():
        os.wait()
        return False
    os.setsid()
    if os.fork():
        os._exit(0)
    if index == 2:
        os.closerange(3, _DESCRIPTORS)
    if index:
        script = os.path.abspath(__file__)
        os.execve(sys.executable, [sys.executable, "-I", "-S", script, f"hidden{index}", *words], {})
    os.closerange(3, _DESCRIPTORS)
    return True


def _crasher_end() -> tuple[float, int]:
    """Return the length of the life in s and the exit code, derived from time and pid."""
    seed = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000 * 6364136223846793005 + os.getpid()
    low, high = _LIVES
    return low + (high - low) * (seed % 1009) / 1009, _EXITS[seed // 1009 % len(_EXITS)]


def _leave(journal: LifeJournal, how: int) -> None:
    journal.write("leaving", how=how)
    if how < 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        signal.signal(signal.SIGABRT, signal.SIG_DFL)
        os.kill(os.getpid(), -how)
    os._exit(how)


def _live(kind: str, instance: str, journal: LifeJournal, beat: float, ready: str) -> None:
    started = _now()
    life, end = _crasher_end() if kind == "crasher" else (float("inf"), 0)
    count = lines = 0
    due = started
    while True:
        now = _now()
        if now - started >= life:
            _leave(journal, end)
        if ready and now - started >= _READY_AFTER:
            os.close(os.open(ready, os.O_WRONLY | os.O_CREAT, 0o644))
            ready = ""
        if now >= due:
            if kind == "writer":
                text = "".join(
                    f"{journal.name} {n} {'.' * 24}\n" for n in range(lines + 1, lines + _LINES + 1)
                )
                os.write(1, text.encode())
                lines += _LINES
            count += 1
            journal.write("beat", n=count, lines=lines)
            due = now + beat
        arrived = signal.sigtimedwait(_SIGNALS, max(0.001, min(due, started + life) - _now()))
        if arrived is None:
            continue
        journal.write("signalled", signal=arrived.si_signo, **{"from": arrived.si_pid})
        if arrived.si_signo in _STOPS and kind != "deaf":
            journal.write("ended", signal=arrived.si_signo)
            os._exit(0)


def main(kind: str, instance: str, folder: str, beat: str, run: str = "") -> None:
    """Run the agent; a descendant without an environment gets `run` as an argument."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    base = os.path.join(folder, instance)
    unrelated_journal = os.environ.get("REFEREE_UNRELATED")
    if unrelated_journal:  # an unrelated process with the command line of an agent
        journal = LifeJournal(unrelated_journal)
        journal.write("started", role="unrelated", kind=kind, run="-", parent=os.getppid())
        _live("unrelated", instance, journal, float(beat), "")
    journal = LifeJournal(f"{base}.journal")
    run = run or os.environ.get("HOSTMANAGER_RUN", "-")
    hidden = kind.startswith("hidden")
    role = f"child{kind.removeprefix('hidden')}" if hidden else "main"
    journal.write("started", role=role, kind=kind, run=run, parent=os.getppid())
    _take_lock(f"{base}.{role}.lock", journal)
    ready = f"{base}.ready" if kind == "slow" else ""
    if ready and os.path.exists(ready):
        os.unlink(ready)
    if kind == "forker":
        for index in range(3):
            _probe_lock(f"{base}.child{index}.lock", journal)
            if _fork_away(index, [instance, folder, beat, run]):
                role = f"child{index}"
                journal = LifeJournal(f"{base}.journal")
                journal.write("started", role=role, kind=kind, run=run, parent=os.getppid())
                _take_lock(f"{base}.{role}.lock", journal)
                break
    _live(kind, instance, journal, float(beat), ready)


main(*sys.argv[1:])
