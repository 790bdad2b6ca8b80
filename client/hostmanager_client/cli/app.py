"""The root command: global options, and commands that are loaded when they are called."""

from __future__ import annotations

import os
import traceback
from importlib import import_module

import click

from hostmanager_client.cli import DEBUG_VARIABLE
from hostmanager_client.cli.failure import EXIT_CODES, exit_code, pipe_closed, show_error
from hostmanager_client.cli.groups import SuggestingGroup
from hostmanager_client.cli.options import common_options
from hostmanager_client.cli.session import current_session
from hostmanager_client.errors import HostManagerError

# Name: (module, what it does). The module has a click command of the name, with "-" as "_" and "_command".
COMMANDS: dict[str, tuple[str, str]] = {
    "status": ("status", "Show the manager and its instances."),
    "watch": ("watch", "Follow the status, live."),
    "show": ("show", "Show everything about one instance."),
    "up": ("targets", "Set the target of instances to up."),
    "down": ("targets", "Set the target of instances to down."),
    "restart": ("targets", "Take instances down and up again."),
    "update": ("targets", "Change several targets at once, in order."),
    "reload": ("targets", "Read the site config again."),
    "logs": ("logs", "Show the output of an instance."),
    "events": ("events", "Show what happened, with reasons."),
    "pull": ("pull", "Pull the images of compose services."),
    "orphans": ("orphans", "Show or remove orphaned containers."),
    "manager": ("manager", "Start, stop or look at the manager."),
    "upgrade": ("upgrade", "Replace the daemon by the code installed now."),
    "die": ("die", "Bring everything down and end the daemon."),
    "completion": ("completion", "Print a script for shell completion."),
}


class Commands(SuggestingGroup):
    """Loads a command's module when the command is called. Others' come by entry point (plugins.py)."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from hostmanager_client.cli import plugins

        return [*COMMANDS, *plugins.names()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            module = import_module(f"hostmanager_client.cli.{COMMANDS[cmd_name][0]}")
            command: click.Command = getattr(module, f"{cmd_name}_command")
            return command
        from hostmanager_client.cli import plugins

        return plugins.load(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from hostmanager_client.cli import plugins

        with formatter.section("Commands"):
            formatter.write_dl([(name, short) for name, (_, short) in COMMANDS.items()])
        if names := plugins.names():
            with formatter.section("Commands of the server"):
                formatter.write_dl([(name, plugins.short_help(name)) for name in names])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_paragraph()
        formatter.write_text(EXIT_CODES)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # before click sees it, which exits 1
            raise click.exceptions.Exit(pipe_closed()) from error
        except HostManagerError as error:
            if os.environ.get(DEBUG_VARIABLE):
                traceback.print_exc()
            show_error(error, as_json=current_session(ctx).json)
            raise click.exceptions.Exit(exit_code(error)) from error


def _print_version(ctx: click.Context, param: click.Parameter, value: object) -> None:
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    click.echo(f"hostmanager {version('hostmanager')}")
    ctx.exit()


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    subcommand_metavar="COMMAND [ARGS]...",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version.",
)
@common_options
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Keep a host's services in the state that their operators ask for."""
    current_session(ctx)
    if os.environ.get("NO_COLOR"):
        ctx.color = False
