"""The command `hostmanager completion`."""

from __future__ import annotations

import click

from hostmanager_client.cli import PROGRAM


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print a script that completes commands, options, instance ids, classes and labels.

    \b
      bash:  eval "$(hostmanager completion bash)"      in ~/.bashrc
      zsh:   eval "$(hostmanager completion zsh)"       in ~/.zshrc
      fish:  hostmanager completion fish | source       in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    from hostmanager_client.cli import bash_completion  # noqa: F401 -- replaces the completion of click
    from hostmanager_client.cli.app import cli

    completer = get_completion_class(shell)
    assert completer is not None  # click has one for each of the choices
    click.echo(completer(cli, {}, PROGRAM, f"_{PROGRAM.upper()}_COMPLETE").source())
