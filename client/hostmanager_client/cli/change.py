"""The work of `signal`, and of the commands that change targets: `up`, `down`, `restart`, `update`, `reload`.

Neither click nor gRPC nor protobuf is loaded here: brief.py runs these commands without them.
"""

from __future__ import annotations

from hostmanager_client.cli.cli_session import CliSession
from hostmanager_client.cli.escape import one_line
from hostmanager_client.cli.output import print_json, print_line
from hostmanager_client.cli.selection import NONE_FAILING, names_of
from hostmanager_client.errors import HostManagerError
from hostmanager_client.selectors import id_or_selector

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hostmanager.v1 import host_manager_pb2 as pb

    from hostmanager_client.calls import Change, Target
    from hostmanager_client.sync import HostManagerClient
    from hostmanager_client.waiting import WaitProgress

MOST_EXPLAINED = 100  # instances that a command asks about after a change
ALL = "all"  # the word of the contract, and of OCS


def restart(
    session: CliSession,
    words: tuple[str, ...],
    *,
    everything: bool,
    failing: bool = False,
    wait: bool = False,
    reason: str = "",
) -> None:
    """Stop and start instances; all with target up if `everything`, only failing ones if `failing`."""
    with session.connect(timeout=_call_timeout(session, wait=wait)) as client:
        answer = client.restart(
            names_of(words), all_up=everything and not failing, failing=failing, reason=reason
        )
        if not session.json:
            if failing and not answer.generations:
                print_line(NONE_FAILING)
            _print_all(f"{one_line(g.instance_id)}: restarting" for g in answer.generations)
        progress = _wait(session, client, answer, {}) if wait else None
    _finish(session, answer, progress)


def signal(
    session: CliSession, instance_id: str, word: str, *, whole_tree: bool = False, reason: str = ""
) -> None:
    """Send a signal to the main process of an instance, or to its whole tree."""
    with session.connect() as client:
        answer = client.signal(instance_id, word, whole_tree=whole_tree, reason=reason)
    if session.json:
        from hostmanager_client.words import to_json

        print_json(to_json(answer))
    else:
        receiver = "every process" if whole_tree else "the main process"
        print_line(f"{one_line(instance_id)}: sent {one_line(word)} to {receiver}")


def to_changes(pairs: Iterable[tuple[str, str]]) -> list[Change]:
    """Return the changes of the client for pairs of id and word."""
    from hostmanager_client.calls import DOWN, UP

    return [(id_or_selector(name), UP if word == "up" else DOWN) for name, word in pairs]


def _call_timeout(session: CliSession, *, wait: bool) -> float | None:
    """Return the timeout of a call; with --wait, --timeout limits the wait instead."""
    from hostmanager_client.calls import PLAIN_TIMEOUT

    return PLAIN_TIMEOUT if wait else session.timeout


def update(
    session: CliSession,
    pairs: Iterable[tuple[str, str]],
    *,
    wait: bool = False,
    reload_config: bool = False,
    validate_only: bool = False,
    with_dependencies: bool = False,
    failing: bool = False,
    ask: bool = False,
    reason: str = "",
) -> None:
    """Set targets in order, all or none.

    `failing`: change failing instances only. `ask`: on a terminal, ask before a reload stops a running
    instance.
    """
    with session.connect(timeout=_call_timeout(session, wait=wait)) as client:
        changes = to_changes(pairs)
        shown = _ask_before_stops(client, changes) if ask and not validate_only else None
        answer = client.update(
            changes,
            reload_config=reload_config,
            validate_only=validate_only,
            with_dependencies=with_dependencies,
            reason=reason,
            failing=failing,
        )
        targets = {g.instance_id: g.target_state for g in answer.generations}
        if not session.json:
            if failing and not targets:
                print_line(NONE_FAILING)
            _warn(answer)
            if reload_config:
                _print_changes(answer, shown, validate_only=validate_only)
            _print_all(_sentences(targets, validate_only=validate_only))
        progress = None
        if wait and reload_config:
            from hostmanager_client.cli.wait_progress import follow_all

            progress = follow_all(session, client)
        elif wait:
            progress = _wait(session, client, answer, targets)
        elif not session.json and not validate_only:
            _print_all(_waits(client, targets))
    _finish(session, answer, progress)


def _ask_before_stops(client: HostManagerClient, changes: list[Change]) -> pb.UpdateResponse | None:
    """Ask on a terminal if a reload would stop a running instance; exit 1 unless the user agrees.

    Returns the answer whose changes the user has seen, if any.
    """
    from hostmanager_client.cli.config_changes import confirm, may_ask

    if not may_ask():
        return None
    preview = client.update(changes, reload_config=True, validate_only=True)
    if not preview.stopping:
        return None
    confirm(preview)
    return preview


def _print_changes(
    answer: pb.UpdateResponse, shown: pb.UpdateResponse | None, *, validate_only: bool
) -> None:
    """Print the changes of a reload; on a terminal without those that the question has shown."""
    import sys

    from hostmanager_client.cli.config_changes import change_lines, heading

    print_line(heading(answer, validate_only=validate_only))
    if shown is None or shown.changes != answer.changes or not sys.stdout.isatty():
        _print_all(change_lines(answer, validate_only=validate_only))


def _sentences(targets: Mapping[str, Target], *, validate_only: bool) -> Iterable[str]:
    from hostmanager_client.words import target_word

    would = "would be " if validate_only else ""
    for instance_id, target in targets.items():
        yield f"{one_line(instance_id)}: target {would}{target_word(target)}"


def _waits(client: HostManagerClient, targets: Mapping[str, Target]) -> Iterable[str]:
    """Yield a line for each named instance whose start waits for other instances."""
    from hostmanager_client.calls import UP
    from hostmanager_client.light.client import FullClientNeeded

    ups = [instance_id for instance_id, target in targets.items() if target == UP]
    if not 0 < len(ups) <= MOST_EXPLAINED:
        return
    try:
        instances = client.list_instances(ups).instances
    except (HostManagerError, FullClientNeeded):
        return  # the request is accepted, and must not be repeated for these lines
    for instance in instances:
        if instance.reason in ("WaitingForDependencies", "DependencyDown"):
            hint = "; --with-dependencies starts them, too" if instance.reason == "DependencyDown" else ""
            yield f"{one_line(instance.instance_id)}: {one_line(instance.message)}{hint}"


def _wait(
    session: CliSession,
    client: HostManagerClient,
    answer: pb.UpdateResponse | pb.RestartResponse,
    targets: Mapping[str, Target],
) -> WaitProgress:
    from hostmanager_client.cli.wait_progress import follow

    generations = {g.instance_id: g.generation for g in answer.generations}
    return follow(session, client, generations, targets, answer.epoch)


def _warn(answer: pb.UpdateResponse) -> None:
    if answer.config_warnings:
        from hostmanager_client.cli.view import problem_line

        for problem in answer.config_warnings:
            print_line(problem_line(problem), err=True)


def _print_all(lines: Iterable[str]) -> None:
    for line in lines:
        print_line(line)


def _finish(
    session: CliSession, answer: pb.UpdateResponse | pb.RestartResponse, progress: WaitProgress | None
) -> None:
    """Print the end of the output, after success."""
    if session.json:
        from hostmanager_client.cli.wait_progress import wait_json
        from hostmanager_client.words import to_json

        print_json(to_json(answer) | ({"wait": wait_json(progress)} if progress is not None else {}))
    elif progress is not None:
        count = len(progress.reached)
        print_line(f"{count} {'instance' if count == 1 else 'instances'} reached the target")
