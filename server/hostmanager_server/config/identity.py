"""Ids and classes of entries of `agent-instances`, and the instances of entries with errors."""

from __future__ import annotations

from collections.abc import Mapping

from hostmanager_server.config.document import MapNode, Node, Scalar
from hostmanager_server.config.node_reader import Entry, Reader, shown
from hostmanager_server.config.shared_values import shared
from hostmanager_server.core.manager_status import Problem
from hostmanager_server.core.plan import ALL
from hostmanager_server.core.spec import InstanceSpec, Management, Target

MAX_ID = 80  # characters; ids become file names, in which one character may take up to twelve


def read_instance_id(reader: Reader, node: Node, entries: Mapping[str, Entry]) -> str | None:
    """Return the id of an entry; None after an error."""
    if "instance-id" not in entries:
        entry = entries.get("agent-class")
        of_class = f" of class {shown(entry.value.text)}" if entry and isinstance(entry.value, Scalar) else ""
        reader.error(node, f"an entry{of_class} of 'agent-instances' has no 'instance-id'")
        return None
    value = entries["instance-id"].value
    text = reader.text(value, "'instance-id'")
    if text is None:
        return None
    if text == ALL:
        reader.error(value, f"instance-id {ALL!r} stands for all instances in requests; choose another")
        return None
    if not _is_id(text):
        rule = f"must have 1 to {MAX_ID} characters, and no slash, control character or blank at its ends"
        reader.error(value, f"instance-id {shown(text)} {rule}")
        return None
    return text


def read_agent_class(reader: Reader, node: Node, entries: Mapping[str, Entry], label: str) -> str | None:
    """Return the class of an entry; None after an error."""
    if "agent-class" not in entries:
        reader.error(node, f"{label} has no 'agent-class'")
        return None
    value = entries["agent-class"].value
    text = reader.text(value, f"'agent-class' of {label}")
    if text is not None and (not text or not text.isprintable()):
        reader.error(value, f"'agent-class' of {label} is empty, or has a control character")
        return None
    return text if text is None else shared(text)


def stated_identity(node: Node) -> tuple[str, str]:
    """Return the id and the class that an entry with errors states; empty where they are missing or wrong."""
    pairs = node.pairs if isinstance(node, MapNode) else ()
    texts = {k.text: v.text for k, v in pairs if isinstance(k, Scalar) and isinstance(v, Scalar)}
    instance_id, agent_class = texts.get("instance-id", ""), texts.get("agent-class", "")
    good = _is_id(instance_id) and instance_id != ALL
    return instance_id if good else "", agent_class if agent_class.isprintable() else ""


def bad_instance(
    instance_id: str, agent_class: str, manage: tuple[Management, Target] | None, mistake: Problem
) -> InstanceSpec:
    """Return the instance of an entry with errors, which the daemon cannot operate."""
    management, target = manage or (Management.HOST, Target.UP)
    problem = f"its entry in the site config has an error: {mistake}"
    return InstanceSpec(instance_id, agent_class or "?", management, target, problem=problem)


def _is_id(text: str) -> bool:
    return (
        bool(text) and len(text) <= MAX_ID and "/" not in text and text.isprintable() and text == text.strip()
    )
