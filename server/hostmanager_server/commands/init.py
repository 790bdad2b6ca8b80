"""The command `hostmanager init`: a first site config."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

from hostmanager_server.core.printable import printable

# The tutorial and the README have this text, too; a test compares.
FIRST_SITE = """\
# The first site of HostManager: two agents. After a change, run `hostmanager reload`.

# Kinds of agents, with the keys that all instances of the kind share.
agent-classes:
  Thermometer:
    command: [sh, -c, 'while :; do echo "$(date +%T) $0 K"; sleep 1; done']

hosts:
  localhost: # any machine without an entry of its own name
    agent-instances:
      - instance-id: thermo1 # up with the daemon, and restarted when it ends
        agent-class: Thermometer
        arguments: ["4.2"] # appended to the command
      - instance-id: heater
        agent-class: Thermometer
        arguments: ["300"]
        manage: down # stays down until an operator asks
"""


@click.command("init")
@click.argument("file", default="site.yaml", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def init_command(context: click.Context, file: Path, *, as_json: bool) -> None:
    """Write a first site config to FILE (default: site.yaml), with two agents that run on any machine.

    The command never overwrites a file.
    """
    try:
        with file.open("x", encoding="utf-8") as created:
            created.write(FIRST_SITE)
    except FileExistsError as error:
        why = "the file exists; name another file, or remove that one"
        raise click.ClickException(printable(f"cannot write '{file}': {why}")) from error
    except OSError as error:
        raise click.ClickException(printable(f"cannot write '{file}': {error.strerror}")) from error
    # The client keeps the command line's own --json in an object that the server cannot know the type of.
    if as_json or getattr(context.find_root().obj, "json", False):
        click.echo(json.dumps({"file": str(file.absolute())}))
        return
    name = shlex.quote(str(file))
    click.echo(printable(f"wrote {file}, with the agents thermo1 and heater"))
    click.echo(printable(f"check it: hostmanager config check {name}"))
    click.echo(printable(f"start it: hostmanager serve {name}"))
