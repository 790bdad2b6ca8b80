"""The command `hostmanager run`."""

from __future__ import annotations

import signal

import click

from hostmanager_client.cli.cli_session import CliSession, pass_session
from hostmanager_client.cli.escape import one_line
from hostmanager_client.cli.failure import show_error
from hostmanager_client.cli.options import common_options, complete_ids
from hostmanager_client.cli.output import print_json, print_line, print_log
from hostmanager_client.errors import HostManagerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hostmanager.v1 import host_manager_pb2 as pb

NOT_RUN = 125  # as of `docker run` and `env`: the code is not that of the agent


@click.command("run")
@click.argument("instance", metavar="ID|CLASS", shell_complete=complete_ids)
@click.argument("arguments", metavar="[-- ARGUMENT...]", nargs=-1, type=click.UNPROCESSED)
@click.option("--raw", is_flag=True, help="Pass control characters to the terminal.")
@common_options
def run_command(instance: str, arguments: tuple[str, ...], *, raw: bool) -> None:
    """Run a one-shot once and now, print its output, and exit with its exit code.

    The daemon runs only what its config names; arguments need the key run-arguments there. A class stands for
    its only one-shot. No restart follows. Ctrl-C leaves the run alone; `hostmanager down ID` stops it.

    Exit codes: that of the agent; 128 + N after signal N; 125 if nothing ran, or the end is not known.

    \b
      hostmanager run migrate
      hostmanager run backup -- --full
    """
    session = pass_session()
    try:
        code = _run(session, instance, arguments, raw=raw)
    except HostManagerError as error:
        show_error(error, as_json=session.json)
        code = NOT_RUN
    raise click.exceptions.Exit(code)


def _run(session: CliSession, instance: str, arguments: tuple[str, ...], *, raw: bool) -> int:
    from hostmanager_client.words import to_json

    code = NOT_RUN
    with session.connect() as client:
        for message in client.run(instance, arguments):
            if message.ended:
                code = _code(message)
            if session.json:
                print_json(to_json(message), lines=True)
                continue
            for line in message.lines:
                print_log(line.text, continues=line.continues, raw=raw)
            ended_well = message.HasField("exit") and message.exit.WhichOneof("status") == "code"
            if message.message and not ended_well:
                print_line(f"{one_line(instance)}: {one_line(message.message)}", err=True)
    return code


def _code(message: pb.RunResponse) -> int:
    match message.exit.WhichOneof("status"):
        case "code":
            return message.exit.code
        case "signal" if message.exit.signal in signal.Signals.__members__:
            return 128 + signal.Signals[message.exit.signal]
        case "signal" if message.exit.signal.removeprefix("SIG").isdecimal():
            return 128 + int(message.exit.signal.removeprefix("SIG"))
    return NOT_RUN
