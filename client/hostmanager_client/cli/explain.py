"""The work of `why`: explanations as text.

Neither click nor gRPC nor protobuf is loaded here: brief.py runs this command without them.
"""

from __future__ import annotations

from hostmanager_client.cli import FAILED
from hostmanager_client.cli.cli_session import CliSession
from hostmanager_client.cli.escape import one_line
from hostmanager_client.cli.output import print_json, print_lines
from hostmanager_client.cli.selection import resolve_ids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from hostmanager.v1 import host_manager_pb2 as pb

MOST_IN_FULL = 3  # explanations that fit on one screen
MOST_IN_BRIEF = 10
_WIDTH = 11  # columns of the labels
_LAST_LINE = 100  # columns of the last output of a run
_RUNNING = 1  # MANAGER_STATE_RUNNING


def explain(session: CliSession, instance_ids: Sequence[str]) -> int:
    """Explain all that is not as wanted, or the named instances; return the exit code."""
    with session.connect() as client:
        answer = client.explain(resolve_ids(client, instance_ids) if instance_ids else ())
    wrong = any(not each.as_wanted for each in answer.explanations) or bool(answer.more)
    wrong = wrong or _is_manager_in_trouble(answer.manager)
    if session.json:
        from hostmanager_client.words import to_json

        print_json(to_json(answer))
    else:
        print_lines(explanation_lines(answer, named=bool(instance_ids)))
    return FAILED if wrong else 0


def _is_manager_in_trouble(manager: pb.ManagerStatus) -> bool:
    unread = any(not status.success for status in manager.config_parse_status.values())
    return manager.state != _RUNNING or bool(manager.problems) or unread


def explanation_lines(answer: pb.ExplainResponse, *, named: bool) -> Iterator[str]:
    """Yield the lines of an answer; `named`: the user has named the instances."""
    from hostmanager_client.cli.view import manager_line, problem_lines
    from hostmanager_client.words import to_seconds

    now = to_seconds(answer.time)
    head = problem_lines(answer.manager) if not named or _is_manager_in_trouble(answer.manager) else []
    if answer.manager.state != _RUNNING:
        head = [manager_line(answer.manager, now, ""), *head]
    yield from head
    explanations = list(answer.explanations)
    in_full = named or len(explanations) <= MOST_IN_FULL
    shown = explanations if in_full else explanations[:MOST_IN_BRIEF]
    for number, each in enumerate(shown):
        if in_full and (number or head):
            yield ""
        yield from _in_full(each, now) if in_full else _in_brief(each, now)
    if not in_full:
        rest = [each.instance.instance_id for each in explanations[len(shown) :]]
        missing = len(rest) + answer.more
        if missing:
            yield f"and {missing} more: {one_line(', '.join(rest[:MOST_IN_BRIEF]))}{', ...' * (missing > 10)}"
        yield "`hostmanager why ID` explains one of them"
    if not named:
        if explanations:
            yield ""
        count = answer.as_wanted
        yield f"{count} {'instance is' if count == 1 else 'instances are'} as wanted"


def _in_brief(each: pb.Explanation, now: float) -> Iterator[str]:
    yield _heading(each, now)
    if each.hints:
        yield _labelled("try", one_line(each.hints[0]))


def _heading(each: pb.Explanation, now: float) -> str:
    from hostmanager_client.cli.text import Cell, duration
    from hostmanager_client.cli.view import describe
    from hostmanager_client.words import next_action_word, target_word, to_seconds

    instance = each.instance
    state, target = next_action_word(instance.next_action), target_word(instance.target_state)
    name = Cell(one_line(instance.instance_id), bold=True).styled()
    words = describe(instance, now) or one_line(instance.message)
    if each.as_wanted:
        return f"{name}: {Cell(state, 'green').styled()}, as wanted: {words}"
    unstable = state == target and bool(instance.consecutive_failures)
    wanted = f" instead of {target}" if state != target else ", not stable yet" if unstable else ", not well"
    since = f" for {duration(now - to_seconds(each.since))}" if each.HasField("since") else ""
    if unstable:
        failures = instance.consecutive_failures
        words = f"{failures} {'failure' if failures == 1 else 'failures in a row'} before this run"
    return f"{name}: {Cell(state, 'red').styled()}{wanted}{since}: {words}"


def _in_full(each: pb.Explanation, now: float) -> Iterator[str]:
    from hostmanager_client.cli.origins import origin_words

    instance = each.instance
    yield _heading(each, now)
    if instance.HasField("target_origin"):
        yield _labelled("target by", origin_words(instance.target_origin))
    more = [f"and {each.more_ends} more"] if each.more_ends else []
    yield from _listed("ended", (*_ends(each.ends), *more))
    if worked := _worked(each, now):
        yield _labelled("worked", worked)
    yield from _listed("changes", (_event_words(event) for event in each.changes))
    if instance.waiting_for:
        yield _labelled("waits for", one_line(", ".join(instance.waiting_for)))
    if each.needed_by:
        yield _labelled("needed by", one_line(", ".join(each.needed_by)))
    yield from _listed("try", map(one_line, each.hints))


def _ends(events: Iterable[pb.Event]) -> Iterator[str]:
    from hostmanager_client.last_output import last_line

    for event in events:
        said = f': "{one_line(last_line(event.exit, _LAST_LINE))}"' if event.exit.last_output else ""
        yield f"{_clock(event)}  {one_line(event.message)}{said}"


def _event_words(event: pb.Event) -> str:
    from hostmanager_client.cli.origins import origin_words

    origin = f" [{origin_words(event.origin)}]" if event.HasField("origin") else ""
    return f"{_clock(event)}  {one_line(f'{event.reason}: {event.message}')}{origin}"


def _worked(each: pb.Explanation, now: float) -> str:
    from hostmanager_client.cli.text import duration
    from hostmanager_client.words import to_seconds

    if not each.HasField("last_worked"):
        return "" if each.as_wanted else "never, as far as the daemon remembers"
    start = to_seconds(each.last_worked.start_time)
    if not each.last_worked.HasField("end_time"):
        return f"since {duration(now - start)} ago"
    end = to_seconds(each.last_worked.end_time)
    return f"until {duration(now - end)} ago, for {duration(end - start)}"


def _clock(event: pb.Event) -> str:
    from hostmanager_client.words import to_datetime

    return f"{to_datetime(event.time).astimezone():%m-%d %H:%M:%S}"


def _listed(label: str, lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield _labelled(label, line)
        label = ""


def _labelled(label: str, text: str) -> str:
    from hostmanager_client.cli.text import style

    return f"  {style(f'{label:{_WIDTH}}', bold=True) if label else ' ' * _WIDTH}{text}"
