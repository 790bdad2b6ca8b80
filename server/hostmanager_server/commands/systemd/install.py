"""`hostmanager systemd`: writes the unit that runs the daemon."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import click

from hostmanager_server.commands.default_paths import default_socket
from hostmanager_server.commands.systemd import unit_file
from hostmanager_server.commands.systemd.request import BadSiteError, Planned, UnitRequest, plan
from hostmanager_server.commands.systemd.unit import UnitError
from hostmanager_server.core.printable import printable

SYSTEM_UNITS = Path("/etc/systemd/system")


class _NotPermittedError(click.ClickException):
    exit_code = 6  # see the exit codes in docs/reference/cli.md


@click.group("systemd")
def systemd_command() -> None:
    """Have systemd run the daemon."""


@systemd_command.command("install")
@click.argument("site_file", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("serve_options", nargs=-1, metavar="[-- SERVE_OPTIONS...]")
@click.option("--host", "--site-host", "host", help="The host entry to run. Default: as `serve` chooses it.")
@click.option("--print", "print_only", is_flag=True, help="Print the unit, and write nothing.")
@click.option("--user-unit", "of_user", is_flag=True, help="A unit of your own manager, without root.")
@click.option("--unit-name", "name", default="hostmanager", show_default=True, metavar="NAME",
    help="The name of the unit, and of its directories in /run and /var/lib; unique on the machine.",
)  # fmt: skip
@click.option("--as-user", metavar="USER", default="", help="The user of the daemon. Default: root.")
@click.option("--state-dir", type=click.Path(path_type=Path), help="Default: /var/lib/NAME.")
@click.option("--listen", multiple=True, metavar="ADDRESS",
    help="unix:PATH or HOST:PORT; may be given more than once. Default: what the site config says, else "
    "a socket in /run/NAME.",
)  # fmt: skip
@click.option("--working-dir", type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="What relative paths in the site config are relative to. Default: where you are.",
)  # fmt: skip
@click.option("--env", multiple=True, metavar="NAME[=VALUE]",
    help="A variable for the daemon and its agents; without a value, the one that it has here. No secrets: "
    "everybody may read the unit.",
)  # fmt: skip
@click.option("--env-file", "env_files", multiple=True, metavar="FILE",
    help="A file of variables for the daemon, such as secrets; `-` before it: it may be missing.",
)  # fmt: skip
@click.option("--hardened", is_flag=True,
    help="Remove rights that few agents need, as docs/how-to/systemd.md says. Not for root.",
)  # fmt: skip
@click.option("--writable", multiple=True, type=click.Path(path_type=Path), metavar="DIRECTORY",
    help="With --hardened: agents write there, too.",
)  # fmt: skip
@click.option("--program", type=click.Path(path_type=Path), help="The program. Default: this `hostmanager`.")
@click.option("--unit-dir", type=click.Path(path_type=Path), metavar="DIRECTORY",
    help="The folder of the unit. Default: /etc/systemd/system, or ~/.config/systemd/user.",
)  # fmt: skip
@click.option("--trust-config", is_flag=True,
    help="Have the daemon use files that others may write; see `serve`.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrite a different unit.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def install_command(
    context: click.Context,
    site_file: Path,
    serve_options: tuple[str, ...],
    host: str | None,
    print_only: bool,
    of_user: bool,
    name: str,
    as_user: str,
    state_dir: Path | None,
    listen: tuple[str, ...],
    working_dir: Path | None,
    env: tuple[str, ...],
    env_files: tuple[str, ...],
    hardened: bool,
    writable: tuple[Path, ...],
    program: Path | None,
    unit_dir: Path | None,
    trust_config: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Write a unit that runs the daemon for the host of SITE_FILE, and print the next steps.

    Options after -- go to `hostmanager serve`. The command starts nothing, and writes nothing before the site
    config, the program and the options have been checked.
    """
    if of_user and as_user:
        raise click.UsageError("--user-unit runs as you: it cannot go with --as-user")
    request = UnitRequest(
        site_file, host, name, of_user, as_user, state_dir, listen, working_dir, program, env, serve_options,
        env_files, hardened, writable, trust_config,
    )  # fmt: skip
    # The command line's own --json is kept in an object of the client, whose type the server cannot know.
    as_json = as_json or bool(getattr(context.find_root().obj, "json", False))
    try:
        planned = plan(request, os.environ)
        text = planned.unit.text()
    except BadSiteError as error:
        for problem in error.problems:
            click.echo(printable(str(problem)), err=True)
        raise click.ClickException(f"{site_file} cannot be used; nothing was written") from error
    except UnitError as error:
        raise click.ClickException(str(error)) from error
    for warning in planned.warnings:
        click.echo(printable(str(warning)), err=True)
    file = (unit_dir or _unit_dir(of_user)) / planned.unit.file_name
    changed = not print_only and _write(file, text, force=force)
    steps = _next_steps(planned, file, of_user=of_user)
    if as_json:
        answer = {
            "unit": planned.unit.file_name,
            "file": str(file),
            "changed": changed,
            "text": text,
            "next": steps,
        }
        click.echo(json.dumps(answer, indent=2))
    elif print_only:
        click.echo(text, nl=False)
    else:
        click.echo(f"{file} is {'written' if changed else 'as it should be already'}. Next:")
        for step in steps:
            click.echo(f"  {step}")


def _unit_dir(of_user: bool) -> Path:
    if not of_user:
        return SYSTEM_UNITS
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"


def _write(file: Path, text: str, *, force: bool) -> bool:
    """Whether it had to be written."""
    try:
        before = unit_file.look_at(file)
        if before is not None and before.text == text and before.sound:
            return False
        if before is not None and before.text != text and not force:
            click.echo(unit_file.differences(file, before.text, text), nl=False, err=True)
            raise click.ClickException(f"{file} is there and differs (above); --force overwrites it")
        unit_file.write(file, text)
    except unit_file.UnitFileError as error:
        raise click.ClickException(str(error)) from error
    except PermissionError as error:
        raise _NotPermittedError(
            f"cannot write {file}: {error.strerror}; run this as root, put it there yourself (--print), or "
            "have the daemon run as your own user (--user-unit)"
        ) from error
    except OSError as error:
        raise click.ClickException(f"cannot write {file}: {error.strerror}: {error.filename}") from error
    return True


def _next_steps(planned: Planned, file: Path, *, of_user: bool) -> list[str]:
    unit = planned.unit
    systemctl = "systemctl --user" if of_user else "systemctl"
    standard = _unit_dir(of_user)
    steps = []
    if file.parent != standard:
        steps.append(f"cp {shlex.quote(str(file))} {shlex.quote(str(standard))}/")
    steps.append(f"{systemctl} daemon-reload && {systemctl} enable --now {unit.name}")
    steps.append(f"{systemctl} status {unit.name}")
    if of_user:
        steps.append("loginctl enable-linger   # to run while you are not logged in")
    if planned.listen and planned.listen[0] != f"unix:{default_socket(dict(os.environ))}":
        steps.append(
            f"export HOSTMANAGER_ADDRESS={shlex.quote(planned.listen[0])}   # for `hostmanager status`"
        )
    return steps
