"""Selectors: words that name instances by id, pattern, agent class or label."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from fnmatch import translate

from hostmanager.values import dataclass, replace

from hostmanager_server.core.health import is_failing
from hostmanager_server.core.model import Instances
from hostmanager_server.core.plan import ALL, BadEntry, TargetChange, check_restart
from hostmanager_server.core.spec import HostSpec, InstanceSpec

LONGEST = 200  # characters of a selector
_CLASS_SUFFIXES = ("[d]", "[d?]")  # of the classes in a table


class SelectorError(ValueError):
    """A selector that cannot be used; the text is a sentence for operators.

    `unknown`: the selector is valid, and no instance matches.
    """

    def __init__(self, text: str, *, unknown: bool = False) -> None:
        super().__init__(text)
        self.unknown = unknown


class _Field(Enum):
    """The property of an instance that a selector compares."""

    ID = "id"
    EXACT_ID = "exact id"
    CLASS = "class"
    LABEL = "label"


@dataclass(frozen=True, slots=True)
class ParsedSelector:
    """A parsed selector; `value` is the pattern of a label's value, None for any value."""

    text: str
    field: _Field
    name: str
    pattern: re.Pattern[str]
    value: re.Pattern[str] | None = None

    def matches(self, spec: InstanceSpec) -> bool:
        """Return whether the selector names this instance."""
        match self.field:
            case _Field.ID:
                return self.pattern.match(spec.instance_id) is not None
            case _Field.EXACT_ID:
                return spec.instance_id == self.name
            case _Field.CLASS:
                return spec.agent_class == self.name or self.pattern.match(spec.agent_class) is not None
        return any(
            self.pattern.match(name) and (self.value is None or self.value.match(value))
            for name, value in spec.labels
        )

    def matches_id(self, instance_id: str) -> bool:
        """Return whether the selector names an instance by its id alone, which may be gone."""
        if self.field is _Field.EXACT_ID:
            return instance_id == self.name
        return self.field is _Field.ID and self.pattern.match(instance_id) is not None


def parse_selector(text: str) -> ParsedSelector:
    """Return the selector of a text: `id:ID`, `class:PATTERN`, `label:NAME[=VALUE]`, `@NAME[=VALUE]`.

    Any other text is a pattern of ids. Patterns are those of shells: `*`, `?`, `[abc]`. Raises
    SelectorError.
    """
    if not text:
        raise SelectorError("a selector must not be empty")
    if len(text) > LONGEST:
        raise SelectorError(f"a selector has at most {LONGEST} characters, not {len(text)}")
    head, colon, rest = text.partition(":")
    field, name, value = _Field.ID, text, None
    if text.startswith("@") or (colon and head == "label"):
        field = _Field.LABEL
        name, equals, given = (text[1:] if text.startswith("@") else rest).partition("=")
        value = _pattern(given) if equals else None
    elif colon and head == "class":
        field = _Field.CLASS
        name = next((rest.removesuffix(end) for end in _CLASS_SUFFIXES if rest.endswith(end)), rest)
    elif colon and head == "id":
        field, name = _Field.EXACT_ID, rest
    if not name:
        raise SelectorError(f"selector {text!r} names nothing; write a name or a pattern after {text!r}")
    return ParsedSelector(text, field, name, _pattern(name), value)


def _pattern(text: str) -> re.Pattern[str]:
    # `fnmatch` would keep the patterns of all clients.
    return re.compile(translate(text))


def select(text: str, specs: Mapping[str, InstanceSpec]) -> list[str]:
    """Return the sorted ids of the instances that a selector names; raise SelectorError if there are none.

    An id is a selector of its instance, whatever characters the id has.
    """
    if text in specs:
        return [text]
    selector = parse_selector(text)
    ids = sorted(instance_id for instance_id, spec in specs.items() if selector.matches(spec))
    if not ids:
        message = f"no instance on this host matches {text!r}{_known(selector, specs.values())}"
        raise SelectorError(message, unknown=True)
    return ids


def resolve_changes(
    changes: Iterable[TargetChange], host: HostSpec | None, instances: Instances
) -> tuple[list[TargetChange], list[BadEntry]]:
    """Return the changes with a change of its own for each selected instance, and the bad selectors.

    `host` has the instances at the time of the changes, None for the present ones: a new instance is not
    failing.
    """
    if host is not None:
        specs = {spec.instance_id: spec for spec in host.instances}
    else:
        specs = {i.instance_id: i.wanted.successor or i.spec for i in instances.values() if not i.retired}
    resolved: list[TargetChange] = []
    bad: list[BadEntry] = []
    for index, change in enumerate(changes):
        ids = [change.instance_id]
        if change.selector:
            try:
                ids = select(change.instance_id, specs)
            except SelectorError as error:
                bad.append(BadEntry(index, str(error), unknown=error.unknown))
        elif change.failing and change.instance_id == ALL:
            ids = sorted(specs)
        if change.failing:
            # An unknown id stays, and is refused.
            ids = [i for i in ids if i not in specs or (i in instances and is_failing(instances[i]))]
        resolved += (replace(change, instance_id=i, selector=False, failing=False) for i in ids)
    return resolved, bad


def select_restarts(
    instances: Instances, ids: Sequence[str], selectors: Sequence[str], *, failing: bool
) -> tuple[list[str], list[BadEntry]]:
    """Return the instances to restart, and the bad entries of the request.

    Of the instances that a selector names, those restart that can; a selector without any is bad. `failing`
    without ids and selectors: all failing instances that can be restarted.
    """
    bad = check_restart(instances, ids)
    chosen = dict.fromkeys(ids)
    specs = {i.instance_id: i.spec for i in instances.values() if not i.retired}
    for index, text in enumerate(selectors):
        where = f"selectors[{index}]"
        try:
            found = select(text, specs)
        except SelectorError as error:
            bad.append(BadEntry(index, str(error), unknown=error.unknown, where=where))
            continue
        able = [instance_id for instance_id in found if not check_restart(instances, [instance_id])]
        if not able:
            why = f"cannot restart {text!r}: none of its {len(found)} instances has the target up"
            why = check_restart(instances, found)[0].why if len(found) == 1 else why
            bad.append(BadEntry(index, why, where=where))
        chosen.update(dict.fromkeys(able))
    if failing and not ids and not selectors:
        chosen = dict.fromkeys(i for i in sorted(specs) if not check_restart(instances, [i]))
    if failing:
        chosen = {i: None for i in chosen if i in instances and is_failing(instances[i])}
    return list(chosen), bad


def _known(selector: ParsedSelector, specs: Iterable[InstanceSpec]) -> str:
    """Return the known classes or labels, as a hint for a selector that matches nothing."""
    if selector.field is _Field.CLASS:
        return _listed("classes", sorted({spec.agent_class for spec in specs}))
    if selector.field is _Field.LABEL:
        labels = {name if not value else f"{name}={value}" for spec in specs for name, value in spec.labels}
        return _listed("labels", sorted(labels)) if labels else "; no instance has a label"
    return ""


def _listed(what: str, names: Sequence[str], most: int = 10) -> str:
    return f" ({what}: {', '.join(names[:most])}{', …' if len(names) > most else ''})"
