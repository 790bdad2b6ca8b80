"""The command `hostmanager systemd install`, which writes the unit of the daemon."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import click
from hostmanager.values import dataclass

from hostmanager_server.commands.default_paths import default_socket
from hostmanager_server.commands.systemd import unit_file
from hostmanager_server.commands.systemd.request import UnitPlan, UnitRequest, UnusableSiteError, plan
from hostmanager_server.commands.systemd.unit import Unit, UnitError
from hostmanager_server.core.printable import printable

SYSTEM_UNITS = Path("/etc/systemd/system")


class _NotPermittedError(click.ClickException):
    exit_code = 6  # docs/reference/exit-codes.md lists the exit codes


@dataclass(frozen=True, slots=True)
class InstallFlags:
    """The command line of `systemd install`.

    The help text of each option describes its field.
    """

    site_file: Path
    serve_options: tuple[str, ...]
    host: str | None
    print_only: bool
    of_user: bool
    name: str
    as_user: str
    state_dir: Path | None
    listen: tuple[str, ...]
    working_dir: Path | None
    env: tuple[str, ...]
    env_files: tuple[str, ...]
    hardened: bool
    writable: tuple[Path, ...]
    program: Path | None
    unit_dir: Path | None
    trust_config: bool
    force: bool
    as_json: bool

    def request(self) -> UnitRequest:
        """Return the request for the unit, without the flags about its file."""
        return UnitRequest(
            self.site_file, self.host, self.name, self.of_user, self.as_user, self.state_dir, self.listen,
            self.working_dir, self.program, self.env, self.serve_options, self.env_files, self.hardened,
            self.writable, self.trust_config,
        )  # fmt: skip


@click.group("systemd")
def systemd_command() -> None:
    """Run the daemon under systemd."""


@systemd_command.command("install")
@click.argument("site_file", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("serve_options", nargs=-1, metavar="[-- SERVE_OPTIONS...]")
@click.option(
    "--host", "--site-host", "host", help="The host entry to run. Default: the same as for `serve`."
)
@click.option("--print", "print_only", is_flag=True, help="Print the unit, and write nothing.")
@click.option(
    "--user-unit", "of_user", is_flag=True, help="Write a unit for your own service manager, without root."
)
@click.option("--unit-name", "name", default="hostmanager", show_default=True, metavar="NAME",
    help="The name of the unit, and of its directories in /run and /var/lib. Each daemon of a machine needs "
    "its own name.",
)  # fmt: skip
@click.option(
    "--as-user", metavar="USER", default="", help="The user that the daemon runs as. Default: root."
)
@click.option(
    "--state-dir", type=click.Path(path_type=Path), help="The state directory. Default: /var/lib/NAME."
)
@click.option("--listen", multiple=True, metavar="ADDRESS",
    help="An address to listen on, unix:PATH or HOST:PORT; repeat the option for several addresses. "
    "Default: the address in the site config, else a socket in /run/NAME.",
)  # fmt: skip
@click.option("--working-dir", type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The directory of relative paths in the site config. Default: the current directory.",
)  # fmt: skip
@click.option("--env", multiple=True, metavar="NAME[=VALUE]",
    help="A variable for the daemon and its agents; without VALUE, the present value. Give no secrets: "
    "all users may read the unit.",
)  # fmt: skip
@click.option("--env-file", "env_files", multiple=True, metavar="FILE",
    help="A file of variables for the daemon, such as secrets. With `-` before its path, the file may be "
    "missing.",
)  # fmt: skip
@click.option("--hardened", is_flag=True,
    help="Take rights that few agents need from daemon and agents (docs/how-to/systemd.md). Not for root.",
)  # fmt: skip
@click.option("--writable", multiple=True, type=click.Path(path_type=Path), metavar="DIRECTORY",
    help="With --hardened: let agents write to this directory too.",
)  # fmt: skip
@click.option(
    "--program",
    type=click.Path(path_type=Path),
    help="The program that the unit starts. Default: this `hostmanager`.",
)
@click.option("--unit-dir", type=click.Path(path_type=Path), metavar="DIRECTORY",
    help="The directory of the unit file. Default: /etc/systemd/system, or ~/.config/systemd/user.",
)  # fmt: skip
@click.option("--trust-config", is_flag=True,
    help="Let the daemon use files that other users may write, as with `serve`.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrite a present unit that differs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def install_command(context: click.Context, /, **given: Any) -> None:
    """Write a systemd unit that runs the daemon for the host of SITE_FILE, and print the next steps.

    Options after -- go to `hostmanager serve`. The command starts nothing, and writes nothing before the site
    config, the program and the options are known to be good.
    """
    flags = InstallFlags(**given)
    if flags.of_user and flags.as_user:
        raise click.UsageError("cannot combine --user-unit with --as-user: a user unit runs as you")
    planned, text = _plan(flags)
    for warning in planned.warnings:
        click.echo(printable(str(warning)), err=True)
    file = (flags.unit_dir or _unit_dir(of_user=flags.of_user)) / planned.unit.file_name
    changed = not flags.print_only and _write(file, text, force=flags.force)
    steps = _next_steps(planned, file, of_user=flags.of_user)
    # The client keeps the command line's own --json in an object that the server cannot know the type of.
    if flags.as_json or getattr(context.find_root().obj, "json", False):
        _print_json(planned.unit, file, text, steps, changed=changed)
    elif flags.print_only:
        click.echo(text, nl=False)
    else:
        click.echo(f"{file} is {'written' if changed else 'up to date'}. Next:")
        for step in steps:
            click.echo(f"  {step}")


def _plan(flags: InstallFlags) -> tuple[UnitPlan, str]:
    """Return the plan and the text of the unit.

    Raises click's exceptions for a bad request.
    """
    try:
        planned = plan(flags.request(), os.environ)
        return planned, planned.unit.text()
    except UnusableSiteError as error:
        for problem in error.problems:
            click.echo(printable(str(problem)), err=True)
        raise click.ClickException(
            f"cannot use {flags.site_file}: the site config has errors (above); nothing was written"
        ) from error
    except UnitError as error:
        raise click.ClickException(str(error)) from error


def _print_json(unit: Unit, file: Path, text: str, steps: list[str], *, changed: bool) -> None:
    answer = {"unit": unit.file_name, "file": str(file), "changed": changed, "text": text, "next": steps}
    click.echo(json.dumps(answer, indent=2))


def _unit_dir(*, of_user: bool) -> Path:
    if not of_user:
        return SYSTEM_UNITS
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"


def _write(file: Path, text: str, *, force: bool) -> bool:
    """Write the unit file unless the file is up to date.

    Returns whether it was written.
    """
    try:
        before = unit_file.inspect(file)
        if before is not None and before.text == text and before.sound:
            return False
        if before is not None and before.text != text and not force:
            click.echo(unit_file.differences(file, before.text, text), nl=False, err=True)
            raise click.ClickException(
                f"cannot write {file}: a different unit is there (above); --force overwrites it"
            )
        unit_file.write(file, text)
    except unit_file.UnitFileError as error:
        raise click.ClickException(str(error)) from error
    except PermissionError as error:
        raise _NotPermittedError(
            f"cannot write {file}: {error.strerror}; run this command as root, copy the output of --print "
            "there, or let the daemon run as your own user (--user-unit)"
        ) from error
    except OSError as error:
        raise click.ClickException(f"cannot write {file}: {error.strerror}: {error.filename}") from error
    return True


def _next_steps(planned: UnitPlan, file: Path, *, of_user: bool) -> list[str]:
    unit = planned.unit
    systemctl = "systemctl --user" if of_user else "systemctl"
    standard = _unit_dir(of_user=of_user)
    steps = []
    if file.parent != standard:
        steps.append(f"cp {shlex.quote(str(file))} {shlex.quote(str(standard))}/")
    steps.append(f"{systemctl} daemon-reload && {systemctl} enable --now {unit.name}")
    steps.append(f"{systemctl} status {unit.name}")
    if of_user:
        steps.append("loginctl enable-linger   # keeps the daemon running while you are not logged in")
    if planned.listen and planned.listen[0] != f"unix:{default_socket(dict(os.environ))}":
        steps.append(
            f"export HOSTMANAGER_ADDRESS={shlex.quote(planned.listen[0])}   # for `hostmanager status`"
        )
    return steps
