"""The command `signal`."""

from __future__ import annotations

import click

from hostmanager_client.cli.change import signal
from hostmanager_client.cli.cli_session import pass_session
from hostmanager_client.cli.options import common_options, id_argument, reason_option


@click.command("signal")
@id_argument
@click.argument("signal_word", metavar="SIGNAL")
@click.option(
    "--tree", "whole_tree", is_flag=True, help="Every process of the instance, not only the main one."
)
@reason_option
@common_options
def signal_command(instance_id: str, signal_word: str, *, whole_tree: bool, reason: str) -> None:
    """Send a signal to the main process of an instance, such as HUP. The target stays.

    SIGNAL is a name (HUP, SIGUSR1, RTMIN+3) or a number. A compose service gets the signal through the
    engine, in each of its containers. If the signal ends the process, the restart policy decides.
    """
    signal(pass_session(), instance_id, signal_word, whole_tree=whole_tree, reason=reason)
