"""The root command: global options, and commands that load at their first use."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from typing import Any

import click

from hostmanager_client.cli import DEBUG_VARIABLE
from hostmanager_client.cli.cli_session import current_session
from hostmanager_client.cli.failure import EXIT_CODES, exit_code, pipe_closed, show_error
from hostmanager_client.cli.groups import SuggestingGroup
from hostmanager_client.cli.options import common_options
from hostmanager_client.errors import HostManagerError, quoted

# Name: (module, short help). The module has a click command with the name and the suffix "_command".
COMMANDS: dict[str, tuple[str, str]] = {
    "status": ("status", "Show the manager and its instances."),
    "watch": ("watch", "Follow the status."),
    "top": ("top", "Show what running instances use."),
    "show": ("show", "Show all properties of one instance."),
    "why": ("why", "Explain what is not as wanted, and what to try."),
    "up": ("targets", "Set the target of instances to up."),
    "down": ("targets", "Set the target of instances to down."),
    "restart": ("targets", "Restart instances."),
    "signal": ("signal", "Send a signal to the processes of an instance."),
    "update": ("targets", "Change several targets in order."),
    "reload": ("targets", "Read the site config again."),
    "hold": ("hold", "Start and restart instances not again for a while."),
    "release": ("hold", "End holds before their time."),
    "run": ("run", "Run a one-shot once, and exit with its exit code."),
    "logs": ("logs", "Show the output of an instance."),
    "events": ("events", "Show events with their reasons."),
    "pull": ("pull", "Pull the images of compose services."),
    "orphans": ("orphans", "Show or remove orphaned containers."),
    "manager": ("manager", "Start, stop or show the manager."),
    "upgrade": ("upgrade", "Replace the daemon with the installed code."),
    "die": ("die", "Bring all instances down and end the daemon."),
    "completion": ("completion", "Print a script for shell completion."),
}


COMPLETION_VARIABLE = "_HOSTMANAGER_COMPLETE"
_BY_COMPOSE = "Use docker compose, on the compose file of the service."
# What users of docker compose, systemctl and supervisorctl type.
_FOREIGN_WORDS = {
    "start": "`hostmanager up` sets the target to up; `hostmanager manager start` starts the manager.",
    "stop": "`hostmanager down` sets the target to down; `hostmanager manager stop` stops all instances.",
    "kill": "`hostmanager signal` sends a signal; `hostmanager down` stops instances.",
    **dict.fromkeys(("rm", "remove"), "`hostmanager down` stops instances and removes containers."),
    **dict.fromkeys(("ps", "ls", "list", "list-units", "avail"), "`hostmanager status` lists all instances."),
    **dict.fromkeys(
        ("is-active", "is-failed", "health", "check"),
        "`hostmanager status --check` tells by its exit code whether something is wrong.",
    ),
    **dict.fromkeys(
        ("stop-all", "stopall", "start-all", "startall", "restart-all"),
        "`hostmanager up --all`, `down --all` and `restart --all` concern all instances.",
    ),
    **dict.fromkeys(
        ("try-restart", "reload-or-restart", "force-restart"), "`hostmanager restart` restarts instances."
    ),
    "delete": "`hostmanager down` stops instances; an entry leaves the list when the site config loses it.",
    "help": "`hostmanager --help` lists the commands, `hostmanager COMMAND --help` the options of one.",
    "pid": "`hostmanager show` has the pid of an instance.",
    **dict.fromkeys(("inspect", "describe"), "`hostmanager show` has all details of instances."),
    **dict.fromkeys(
        ("log", "tail", "journal", "maintail", "fg"), "`hostmanager logs` shows the output of an instance."
    ),
    **dict.fromkeys(("stats", "usage"), "`hostmanager top` shows what running instances use."),
    **dict.fromkeys(("monitor", "monit"), "`hostmanager watch` follows the status."),
    **dict.fromkeys(
        ("exec", "build", "cp", "port", "images", "pause", "unpause", "scale", "attach"), _BY_COMPOSE
    ),
    "create": "`hostmanager up` makes the containers and starts them.",
    "enable": "`manage` in the site config decides the target at the start of the daemon.",
    "disable": "`manage` in the site config decides the target at the start of the daemon.",
    "daemon-reload": "`hostmanager reload` reads the site config again.",
    "reread": "`hostmanager reload` reads the site config again.",
    "shutdown": "`hostmanager die` stops all instances and ends the daemon.",
    "version": "`hostmanager --version` prints the version.",
}  # fmt: skip


class Commands(SuggestingGroup):
    """The commands; the module of a command loads at its first use, and plugins.py finds further ones."""

    words = _FOREIGN_WORDS

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command line, or complete a word for a shell."""
        if COMPLETION_VARIABLE in os.environ:
            from hostmanager_client.cli import bash_completion  # noqa: F401 -- replaces the completion of click
        return super().main(*args, **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, those of other packages last."""
        from hostmanager_client.cli import plugins

        return [*COMMANDS, *plugins.names()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; None for an unknown name."""
        if cmd_name in COMMANDS:
            module = import_module(f"hostmanager_client.cli.{COMMANDS[cmd_name][0]}")
            command: click.Command = getattr(module, f"{cmd_name}_command")
            return command
        from hostmanager_client.cli import plugins

        return plugins.load(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the lists of commands for --help."""
        from hostmanager_client.cli import plugins

        with formatter.section("Commands"):
            formatter.write_dl([(name, short) for name, (_, short) in COMMANDS.items()])
        if names := plugins.names():
            with formatter.section("Commands of the server"):
                formatter.write_dl([(name, plugins.short_help(name)) for name in names])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the exit codes for --help."""
        formatter.write_paragraph()
        formatter.write_text(EXIT_CODES)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; print an error of the client and turn the error into an exit code."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # click would exit with 1
            raise click.exceptions.Exit(pipe_closed()) from error
        except HostManagerError as error:
            if os.environ.get(DEBUG_VARIABLE):
                traceback.print_exc()
            show_error(error, as_json=current_session(ctx).json)
            raise click.exceptions.Exit(exit_code(error)) from error
        except UnicodeEncodeError as error:
            if not any(error.object in word for word in sys.argv[1:]):
                raise
            raise click.UsageError(
                f"cannot use {quoted(error.object)}: the text is not valid UTF-8; correct the text"
            ) from error


def _print_version(ctx: click.Context, param: click.Parameter, value: object) -> None:
    if not value or ctx.resilient_parsing:
        return
    from hostmanager.distribution import version

    click.echo(f"hostmanager {version()}")
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
    """Control the daemon that keeps the services of a host at their targets.

    \b
      hostmanager status                show all instances
      hostmanager up thermo1 --wait     start an instance and wait for it
      hostmanager logs -f thermo1       follow its output
    """
    current_session(ctx)
    if os.environ.get("NO_COLOR"):
        ctx.color = False
