"""An agent that tells on its supervisor: it holds a lock for as long as it lives, and journals its life.

A script, not a module: `python -I -S agent.py KIND INSTANCE FOLDER BEAT`. It imports next to nothing, as it
is started very often. What the referee believes comes from here and from the kernel, never from the daemon.

A process is named PID.START, START being its kernel start time in clock ticks since boot. A line of the
journal is `WORD PID.START TIME NAME=VALUE ...`, TIME in s since boot:

    born     it runs; who=leader or a descendant's name, run=the daemon's marker of the run
    beat     it still does; n counts from 1, lines is how many lines it has written to its output
    heard    a signal arrived; from=the pid of the sender
    ended    it does as it was told, and ends
    leaving  it ends of its own accord
    barred   somebody else holds the lock that is to be its own
"""

import fcntl
import os
import signal
import sys
import time

_STOPS = {signal.SIGINT, signal.SIGTERM}
_HEARD = {
    *_STOPS,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGCONT,
}
_READY_AFTER = 0.15  # s until a slow one is ready
_LIVES = (0.3, 3.0)  # s that a crasher lives, at least and at most
_EXITS = (0, 1, 3, 77, -signal.SIGKILL, -signal.SIGABRT)  # how a crasher ends; negative: by that signal
_DESCRIPTORS = 1024  # beyond the highest that is inherited
_LINES = 20  # of output for each beat


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _who_am_i() -> str:
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return f"{os.getpid()}.{int(fields[19])}"


class Journal:
    """Appends lines, each with one write, so that those of several processes never mix."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.name = _who_am_i()

    def write(self, word: str, **values: object) -> None:
        rest = "".join(f" {name}={value}" for name, value in values.items())
        os.write(self._file, f"{word} {self.name} {_now():.6f}{rest}\n".encode())


def _take_lock(path: str, journal: Journal) -> int:
    """Take it for life, or say who has it. Anybody may be told by it who holds it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 100).decode().strip() or "nobody-yet"
        journal.write("barred", lock=os.path.basename(path), holder=holder)
    else:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{journal.name}\n".encode(), 0)
    return lock


def _probe_lock(path: str, journal: Journal) -> None:
    """Nobody may hold this one before this process hands it to a descendant."""
    os.close(_take_lock(path, journal))


def _fork_away(index: int, words: list[str]) -> bool:
    """Leave a descendant behind that has left session and parent; True in the descendant. One is known by its
    environment only, the other by the descriptors that it keeps."""
    if os.fork():
        os.wait()
        return False
    os.setsid()
    if os.fork():
        os._exit(0)
    if index % 2:
        script = os.path.abspath(__file__)
        os.execve(sys.executable, [sys.executable, "-I", "-S", script, f"hidden{index}", *words], {})
    os.closerange(3, _DESCRIPTORS)
    return True


def _crasher_fate() -> tuple[float, int]:
    """How long it is to live, and how it is to end, as its identity has it."""
    seed = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000 * 6364136223846793005 + os.getpid()
    low, high = _LIVES
    return low + (high - low) * (seed % 1009) / 1009, _EXITS[seed // 1009 % len(_EXITS)]


def _leave(journal: Journal, how: int) -> None:
    journal.write("leaving", how=how)
    if how < 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)
        signal.signal(signal.SIGABRT, signal.SIG_DFL)
        os.kill(os.getpid(), -how)
    os._exit(how)


def _live(kind: str, instance: str, journal: Journal, beat: float, ready: str) -> None:
    born = _now()
    life, fate = _crasher_fate() if kind == "crasher" else (float("inf"), 0)
    count = lines = 0
    due = born
    while True:
        now = _now()
        if now - born >= life:
            _leave(journal, fate)
        if ready and now - born >= _READY_AFTER:
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
        arrived = signal.sigtimedwait(_HEARD, max(0.001, min(due, born + life) - _now()))
        if arrived is None:
            continue
        journal.write("heard", signal=arrived.si_signo, **{"from": arrived.si_pid})
        if arrived.si_signo in _STOPS and kind != "deaf":
            journal.write("ended", signal=arrived.si_signo)
            os._exit(0)


def main(kind: str, instance: str, folder: str, beat: str, run: str = "") -> None:
    """`run` is given where the environment is not."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    base = os.path.join(folder, instance)
    standing_by = os.environ.get("REFEREE_BYSTANDER")
    if standing_by:  # the same command line as an agent, but nobody's child: it is to be let alone
        journal = Journal(standing_by)
        journal.write("born", who="bystander", kind=kind, run="-", parent=os.getppid())
        _live("bystander", instance, journal, float(beat), "")
    journal = Journal(f"{base}.journal")
    run = run or os.environ.get("HOSTMANAGER_RUN", "-")
    hidden = kind.startswith("hidden")
    who = f"child{kind.removeprefix('hidden')}" if hidden else "leader"
    journal.write("born", who=who, kind=kind, run=run, parent=os.getppid())
    _take_lock(f"{base}.{who}.lock", journal)
    ready = f"{base}.ready" if kind == "slow" else ""
    if ready and os.path.exists(ready):
        os.unlink(ready)
    if kind == "forker":
        for index in range(2):
            _probe_lock(f"{base}.child{index}.lock", journal)
            if _fork_away(index, [instance, folder, beat, run]):
                who = f"child{index}"
                journal = Journal(f"{base}.journal")
                journal.write("born", who=who, kind=kind, run=run, parent=os.getppid())
                _take_lock(f"{base}.{who}.lock", journal)
                break
    _live(kind, instance, journal, float(beat), ready)


main(*sys.argv[1:])
