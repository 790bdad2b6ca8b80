"""The differing settings of two instance specs, in the words of the site config."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import assert_never

from hostmanager.values import dataclass

from hostmanager_server.core.printable import printable
from hostmanager_server.core.secret_names import MASK, has_password, secret_words
from hostmanager_server.core.signals import end_word, signal_name
from hostmanager_server.core.sizes import size_words
from hostmanager_server.core.spec import (
    CommandProbe,
    EnvFile,
    HealthCheckProbe,
    Hook,
    HttpProbe,
    InstanceSpec,
    LivenessProbe,
    ProcessSpec,
    ReadinessProbe,
    RestartPolicy,
    Schedule,
    ServiceSpec,
    TcpProbe,
)

MAX_TEXT = 80  # characters of a key or value
# Words of two commands, multiplied, up to which each differing word is searched: some 0.6 ms.
_COMPARED = 2_500


@dataclass(frozen=True, slots=True)
class KeyChange:
    """One differing setting: its key, and its values in words.

    An empty `before` or `after` means that the setting is new or gone. MASK stands for values that may be
    secrets.
    """

    key: str
    before: str
    after: str


def differences(old: InstanceSpec, new: InstanceSpec) -> Iterator[KeyChange]:
    """Yield the differing settings, in the order of the site config, with shortened texts."""
    for change in (
        *_values({"agent-class": old.agent_class}, {"agent-class": new.agent_class}),
        *_values({"manage": _manage(old)}, {"manage": _manage(new)}),
        *_of_process(old.process, new.process),
        *_of_service(old.service, new.service),
        *_values(_settings(old), _settings(new)),
    ):
        yield KeyChange(shortened(change.key), shortened(change.before), shortened(change.after))


def shortened(text: str, limit: int = MAX_TEXT) -> str:
    """Return the text on one line, cut after `limit` characters."""
    text = printable(text[: limit + 1])
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _values(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[KeyChange]:
    for key in dict.fromkeys((*old, *new)):
        before, after = old.get(key, ""), new.get(key, "")
        if before != after:
            yield KeyChange(key, before, after)


def _manage(spec: InstanceSpec) -> str:
    return f"{spec.management.value}/{spec.initial_target.value}"


def _settings(spec: InstanceSpec) -> dict[str, str]:
    return {
        "ready": _probe(spec.ready) if spec.ready is not None else "",
        "alive": _alive(spec.alive) if spec.alive is not None else "",
        "log-dir": spec.log.directory,
        "log size": f"{spec.log.size} bytes",
        "log keep": str(spec.log.keep),
        "start-timeout": _seconds(spec.start_timeout),
        "up-after": _seconds(spec.up_after),
        "stop-signal": signal_name(spec.stop.signal),
        "stop-timeout": f"{_seconds(spec.stop.grace)}, TERM {_seconds(spec.stop.term_grace)}",
        **_restart(spec.restart),
        "success-codes": ", ".join(map(end_word, spec.success_codes)),
        "depends-on": _dependencies(spec),
        "compose dependencies": ", ".join(spec.service_dependencies),
        "labels": ", ".join(f"{name}={value}" if value else name for name, value in spec.labels),
        "restart-above": "" if spec.restart_above is None else size_words(spec.restart_above),
        "restart-dependents": "true" if spec.restart_dependents else "false",
        "schedule": _schedule(spec.schedule) if spec.schedule is not None else "",
        "run-arguments": "true" if spec.run_arguments else "false",
        "on-failure": _hook(spec.on_failure),
        "on-recover": _hook(spec.on_recover),
    }


def _hook(hook: Hook | None) -> str:
    if hook is None or not hook.argv:
        return ""
    user = f", user {hook.user}" if hook.user else ""
    return f"{_words(_masked(hook.argv))} (at most {_seconds(hook.timeout)}{user})"


def _restart(policy: RestartPolicy) -> dict[str, str]:
    backoff = policy.backoff
    return {
        "restart": policy.when.value,
        "give-up-after": "" if policy.give_up_after is None else str(policy.give_up_after),
        "backoff initial": _seconds(backoff.initial),
        "backoff factor": f"{backoff.factor:.15g}",
        "backoff maximum": _seconds(backoff.maximum),
        "backoff reset-after": _seconds(backoff.reset_after),
    }


def _schedule(schedule: Schedule) -> str:
    zone = f" {schedule.timezone}" if schedule.timezone else ""
    return f"{schedule.cron}{zone}, catch-up {_seconds(schedule.catch_up)}"


def _dependencies(spec: InstanceSpec) -> str:
    conditions = dict(spec.conditions)
    return ", ".join(
        f"{name} ({conditions[name].value})" if name in conditions else name for name in spec.depends_on
    )


def _probe(probe: ReadinessProbe) -> str:
    check = " ".join(probe_words(probe.check))
    return f"every {_seconds(probe.interval)}, timeout {_seconds(probe.timeout)}: {check}"


def _alive(probe: LivenessProbe) -> str:
    kind, check = probe_words(probe.check)
    if not check:
        return kind
    times = f"every {_seconds(probe.interval)} after {_seconds(probe.delay)}"
    limits = f"timeout {_seconds(probe.timeout)}, failures {probe.failures}"
    return f"{times}, {limits}: {kind} {check}"


def probe_words(check: TcpProbe | HttpProbe | CommandProbe | HealthCheckProbe) -> tuple[str, str]:
    """Return the kind of a probe, and what it asks, with MASK for what may be a secret."""
    match check:
        case TcpProbe(host, port):
            return "tcp", f"{host}:{port}"
        case HttpProbe(url):
            return "http", MASK if has_password(url) else url
        case CommandProbe(argv):
            return "command", shlex.join(_masked(argv))
        case HealthCheckProbe():
            return "healthcheck", ""
    assert_never(check)


def _seconds(value: float) -> str:
    return f"{value:.15g} s"


# --- native processes


def _of_process(old: ProcessSpec | None, new: ProcessSpec | None) -> Iterator[KeyChange]:
    if old is None or new is None:
        command = (_words(_masked(process.argv)) if process is not None else "" for process in (old, new))
        yield from _values({"command": next(command)}, {"command": next(command)})
        return
    yield from _of_command(old.argv, new.argv)
    yield from _of_variables(dict(old.env), dict(new.env))
    yield from _of_files(old.env_files, new.env_files)
    yield from _values(_process_settings(old), _process_settings(new))


def _process_settings(process: ProcessSpec) -> dict[str, str]:
    inherited = process.env_inherit
    return {
        "env-inherit": "" if inherited is None else ", ".join(inherited) or "[]",
        "working-dir": process.working_dir,
        "user": process.user,
        "group": process.group,
        "umask": "" if process.umask is None else f"{process.umask:04o}",
        "nice": "" if process.nice is None else str(process.nice),
        "memory": "" if process.memory is None else size_words(process.memory),
        **{f"limits {name}": "unlimited" if n is None else str(n) for name, n in process.limits},
    }


def _of_variables(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[KeyChange]:
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            yield KeyChange(f"env {name}", MASK if name in old else "", MASK if name in new else "")


def _of_files(old: Sequence[EnvFile], new: Sequence[EnvFile]) -> Iterator[KeyChange]:
    yield from _values({"env-file": _paths(old)}, {"env-file": _paths(new)})
    known = {file.path: file.digest for file in old}
    for file in new:
        was = known.get(file.path, "")
        if was and file.digest and was != file.digest:
            yield KeyChange(f"env-file {file.path}", MASK, MASK)


def _paths(files: Sequence[EnvFile]) -> str:
    return ", ".join(f"{file.path} (optional)" if file.optional else file.path for file in files)


def _of_command(old: Sequence[str], new: Sequence[str]) -> Iterator[KeyChange]:
    """Yield the differing words, each with the option before it as the key."""
    shown = (_masked(old), _masked(new))
    for i1, i2, j1, j2 in _hunks(old, new):
        key, before, after = _word_key(shown[0], i1, i2, shown[1], j1, j2)
        yield KeyChange(key, _words(before), _words(after))


def _word_key(
    old: Sequence[str], i1: int, i2: int, new: Sequence[str], j1: int, j2: int
) -> tuple[str, Sequence[str], Sequence[str]]:
    before, after = old[i1:i2], new[j1:j2]
    if len(before) == len(after) == 1:
        name, equals, value = before[0].partition("=")
        if equals and name.startswith("-") and after[0].startswith(f"{name}="):
            return name, (value,), (after[0][len(name) + 1 :],)
        if i1 and j1 and old[i1 - 1] == new[j1 - 1] and _is_option(old[i1 - 1]):
            return old[i1 - 1], before, after
    return ("command" if i1 == 0 else "arguments"), before, after


def _is_option(word: str) -> bool:
    return len(word) > 1 and word[0] == "-" and not word[1].isdigit() and "=" not in word


def _hunks(old: Sequence[str], new: Sequence[str]) -> Iterator[tuple[int, int, int, int]]:
    """Yield the bounds of the differing parts of two lists."""
    shorter = min(len(old), len(new))
    head = next((n for n in range(shorter) if old[n] != new[n]), shorter)
    tail = next((n for n in range(shorter - head) if old[-1 - n] != new[-1 - n]), shorter - head)
    a, b = old[head : len(old) - tail], new[head : len(new) - tail]
    if len(a) * len(b) > _COMPARED:
        yield head, head + len(a), head, head + len(b)
        return
    for block in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if block[0] == "equal":
            continue
        i1, i2, j1, j2 = (head + n for n in block[1:])
        if i2 - i1 == j2 - j1 and all(map(_same_place, old[i1:i2], new[j1:j2])):
            yield from ((i1 + n, i1 + n + 1, j1 + n, j1 + n + 1) for n in range(i2 - i1))
        else:
            yield i1, i2, j1, j2


def _same_place(one: str, other: str) -> bool:
    """Return whether two words are values of the same option, or no options."""
    name, equals, _ = one.partition("=")
    if equals and name.startswith("-"):
        return other.startswith(f"{name}=")
    return not _is_option(one) and not _is_option(other)


def _words(words: Sequence[str]) -> str:
    return " ".join(word if word.endswith(MASK) else shlex.quote(word) for word in words)


def _masked(words: Sequence[str]) -> list[str]:
    """Return the words of a command, with MASK for values that may be secrets."""
    shown = [MASK if has_password(word) else word for word in words]
    for at, _ in secret_words(words):
        name, equals, _value = words[at].partition("=")
        shown[at] = f"{name}={MASK}" if equals else MASK
    return shown


# --- compose services


def definition_differs(old: ServiceSpec, new: ServiceSpec) -> bool:
    """Return whether compose would replace the containers for another definition."""
    return bool(old.config_hash and new.config_hash) and old.config_hash != new.config_hash


def _of_service(old: ServiceSpec | None, new: ServiceSpec | None) -> Iterator[KeyChange]:
    if old is None or new is None:
        name = (service.service if service is not None else "" for service in (old, new))
        yield from _values({"compose service": next(name)}, {"compose service": next(name)})
        return
    shown = list(_values(_service_settings(old), _service_settings(new)))
    yield from shown
    if (definition_differs(old, new) and not shown) or _unshown(old) != _unshown(new):
        yield KeyChange("compose definition", MASK, MASK)


def _unshown(service: ServiceSpec) -> tuple[object, ...]:
    return (
        service.dependencies, service.pull_policy, service.built, service.profiles, service.content_files,
        service.contents, service.stop_grace, service.hashed_definition, service.started_by_compose,
    )  # fmt: skip


def _service_settings(service: ServiceSpec) -> dict[str, str]:
    return {
        "compose service": service.service,
        "compose project": service.project,
        "compose file": ", ".join(service.files),
        "image": service.image,
        "replicas": str(service.replicas),
        "platform": service.platform,
    }
