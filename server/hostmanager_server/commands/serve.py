"""`hostmanager serve`: flags, signals, logging."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import os
import signal
import stat
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

# The daemon starts children beside a live gRPC server; gRPC's fork handlers would abort some of them. It has
# to be said before grpc is imported, and the children are not to inherit it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import click

from hostmanager_server import failpoints
from hostmanager_server.config.last_good import LastGood
from hostmanager_server.config.load import default_site_file
from hostmanager_server.config.manager_options import ManagerOptions, PersistTargets, split_files
from hostmanager_server.core.printable import printable
from hostmanager_server.core.spec import Target
from hostmanager_server.daemon import upgrade
from hostmanager_server.daemon.app import App, DaemonOutcome
from hostmanager_server.daemon.log import DaemonLog
from hostmanager_server.daemon.settings import ComposeSettings, DaemonSettings
from hostmanager_server.drivers.process.cgroup_delegation import AUTO
from hostmanager_server.linux.rlimits import raise_own_files
from hostmanager_server.linux.trusted_paths import Trust, make_folder
from hostmanager_server.rpc.server import AddressError, Limits, check_socket_folder, parse_listen
from hostmanager_server.state.state_directory import StateDirError, check_state_dir

log = logging.getLogger(__name__)

SWITCH_INTERVAL = 0.0005  # s


def default_socket(environ: dict[str, str]) -> Path:
    """Where the daemon listens unless told otherwise, in a directory of mode 0700: /run/hostmanager for root,
    else $XDG_RUNTIME_DIR/hostmanager, else /tmp/hostmanager-UID. The client looks in the same places."""
    if os.geteuid() == 0:
        return Path("/run/hostmanager/hostmanager.sock")
    runtime = environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) / "hostmanager" if runtime else Path(f"/tmp/hostmanager-{os.geteuid()}")  # noqa: S108
    return folder / "hostmanager.sock"


def default_state_dir(environ: dict[str, str]) -> Path:
    """Where the daemon keeps what outlives it: /var/lib/hostmanager for root, else
    $XDG_STATE_HOME/hostmanager (~/.local/state/hostmanager)."""
    if os.geteuid() == 0:
        return Path("/var/lib/hostmanager")
    state = environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path("~/.local/state").expanduser()) / "hostmanager"


def private_folder(socket: Path) -> None:
    """Make the default socket's directory, with mode 0700. Raises AddressError when it is a link, belongs to
    another user, or others may enter it: in /tmp anybody may have made it."""
    folder = socket.parent
    try:
        if not os.path.lexists(folder):
            make_folder(folder)
        status = folder.lstat()
    except OSError as error:
        raise AddressError(f"cannot listen on unix:{socket}: {error.strerror}: {error.filename}") from error
    why = ""
    if not stat.S_ISDIR(status.st_mode):
        why = "is no directory" if not stat.S_ISLNK(status.st_mode) else "is a symbolic link"
    elif status.st_uid != os.geteuid():
        why = f"belongs to user {status.st_uid}"
    elif status.st_mode & 0o077:
        why = f"may be entered by others (mode {stat.S_IMODE(status.st_mode):04o})"
    if why:
        raise AddressError(
            f"cannot listen on unix:{socket}: '{folder}' {why}, and must be a directory of yours with mode "
            "0700; correct or remove it, or say --listen unix:PATH"
        )


@click.command(name="serve", context_settings={"show_default": True})
@click.argument("site_file", required=False, type=click.Path(path_type=Path))
@click.option("--site-file", "site_file_option", type=click.Path(path_type=Path), hidden=True)
@click.option(
    "--host",
    "--site-host",
    "host",
    help="The host entry to run. Default: this machine's name, else localhost.",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    envvar="HOSTMANAGER_STATE_DIR",
    help="The directory of the lock, the records and the output files. "
    "Default: /var/lib/hostmanager for root, else ~/.local/state/hostmanager.",
)
@click.option(
    "--listen",
    multiple=True,
    metavar="ADDRESS",
    help="unix:PATH or HOST:PORT; may be given more than once. "
    "Default: a socket in a directory that only you can enter.",
)
@click.option("--insecure", is_flag=True, help="Serve loopback TCP without any credential.")
@click.option("--reflection", is_flag=True, help="Offer server reflection over TCP too.")
@click.option(
    "--initial-state",
    type=click.Choice(["up", "down"]),
    help="One target for all instances at start, unless targets are kept (see --persist-targets).",
)
@click.option(
    "--persist-targets",
    type=click.Choice([each.value for each in PersistTargets]),
    show_default="crash",
    help="Whether acknowledged targets survive: never; a crash or upgrade of the daemon, but no orderly "
    "end or reboot; or always.",
)
@click.option(
    "--working-dir", type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="What relative paths in the site config are relative to. Default: where you are.",
)  # fmt: skip
@click.option(
    "--docker-compose",
    metavar="FILE,FILE",
    help="Compose files with services to manage, relative to the working directory; a colon joins several "
    "files of one project. Default: the files of the host's HostManager entry.",
)
@click.option(
    "--docker-service-prefix",
    metavar="PREFIX",
    show_default="ocs-",
    help="The text before an instance id in the name of its compose service.",
)
@click.option(
    "--docker-compose-bin",
    metavar="PATH",
    help="A standalone docker-compose program. Default: the plugin `docker compose`, else docker-compose.",
)
@click.option(
    "--max-watchers", type=click.IntRange(1), default=Limits().watchers, help="Watch streams at once."
)
@click.option(
    "--max-watchers-per-client", type=click.IntRange(1), default=Limits().watchers_per_client,
    help="Watch streams at once from one client host.",
)  # fmt: skip
@click.option(
    "--cgroup",
    metavar="auto|off|PATH",
    default=AUTO,
    help="The cgroup (version 2) that holds a group for each agent; auto: the daemon's own group, if systemd "
    "delegated the group.",
)
@click.option(
    "--trust-config",
    is_flag=True,
    envvar="HOSTMANAGER_TRUST_CONFIG",
    help="Use the site config, compose files, state directory and socket folder although others may write "
    "them. Root's daemon refuses them otherwise.",
)
@click.option("--quiet", is_flag=True, help="Log warnings and errors only.")
@click.option(upgrade.PREFLIGHT, is_flag=True, hidden=True, help="Print the version, and start nothing.")
def serve_command(
    site_file: Path | None,
    site_file_option: Path | None,
    host: str | None,
    state_dir: Path | None,
    listen: tuple[str, ...],
    insecure: bool,
    reflection: bool,
    initial_state: str | None,
    persist_targets: str | None,
    working_dir: Path | None,
    docker_compose: str | None,
    docker_service_prefix: str | None,
    docker_compose_bin: str | None,
    max_watchers: int,
    max_watchers_per_client: int,
    cgroup: str,
    trust_config: bool,
    quiet: bool,
    preflight: bool,
) -> None:
    """Run the daemon for the host that SITE_FILE describes (default: $OCS_CONFIG_DIR/default.yaml).

    SIGTERM and SIGINT bring everything down and end the daemon; a second signal leaves running agents to the
    next daemon. SIGHUP reads the site config again. SIGUSR2 upgrades the daemon in place to the installed
    code. Exits 0 on request, 1 if the daemon cannot start or cannot continue.
    """
    environ = dict(os.environ)
    try:
        failpoints.arm(environ)
        site = site_file or site_file_option or default_site_file(environ)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    working_dir = (working_dir or Path.cwd()).absolute()
    folder = (state_dir or default_state_dir(environ)).absolute()
    trust = Trust.of_this_process(override=trust_config)
    try:
        check_state_dir(folder, trust)  # before anything there is read
    except StateDirError as error:
        raise click.ClickException(str(error)) from error
    loaded = LastGood(folder).load(site.absolute(), host=host, working_dir=working_dir, trust=trust)
    options = loaded.options
    quiet = quiet or options.quiet
    logging.basicConfig(
        handlers=[DaemonLog(sys.stderr.fileno(), layout="%(asctime)s %(levelname)s %(message)s")],
        level=logging.WARNING if quiet else logging.INFO,
    )
    faulthandler.enable()  # what every thread was at, should the watchdog of systemd end a hang by SIGABRT
    raise_own_files()
    # A thread that computes (the reading of a large file, for one) gives the interpreter away so often, that
    # the event loop, which needs it several times a call, is not held up. Python's own 5 ms add up to
    # seconds.
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        if listen:
            addresses = tuple(parse_listen(text, insecure=insecure) for text in listen)
        elif options.address:
            addresses = (parse_listen(options.address, insecure=insecure),)
        else:
            socket = default_socket(environ)
            private_folder(socket)
            addresses = (parse_listen(f"unix:{socket}", insecure=insecure),)
        settings = DaemonSettings(
            site_file=site.absolute(),
            state_dir=folder,
            listen=addresses,
            host=host,
            working_dir=working_dir,
            initial_state=Target(initial_state) if initial_state else options.initial_state,
            persist=PersistTargets(persist_targets) if persist_targets else options.persist_targets,
            tcp_reflection=reflection,
            options=options,
            compose=_compose(options, docker_compose, docker_service_prefix, docker_compose_bin),
            limits=replace(Limits(), watchers=max_watchers, watchers_per_client=max_watchers_per_client),
            cgroup=cgroup,
            trust=trust,
        )
        if preflight:
            for each in addresses:  # an upgrade to code that would refuse one of them is refused instead
                if each.socket is not None:
                    check_socket_folder(each.socket, trust)
            click.echo(version("hostmanager"))
            return
        outcome = asyncio.run(_serve(settings))
    except (StateDirError, AddressError) as error:
        raise click.ClickException(printable(str(error))) from error
    finally:
        logging.shutdown()  # closes the log
    if outcome.lock is not None:
        _give_way(outcome.lock)
    sys.exit(outcome.code)


def _compose(
    options: ManagerOptions, files: str | None, prefix: str | None, program: str | None
) -> ComposeSettings | None:
    """What the command line says of compose services, else the HostManager entry."""
    chosen = split_files(files) if files is not None else options.docker_compose
    if not chosen:
        return None
    return ComposeSettings(
        files=chosen,
        prefix=options.docker_service_prefix if prefix is None else prefix,
        program=options.docker_compose_bin if program is None else program,
    )


async def _serve(settings: DaemonSettings) -> DaemonOutcome:
    app = App(settings)
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, app.terminate)
    loop.add_signal_handler(signal.SIGHUP, app.reload)
    loop.add_signal_handler(signal.SIGUSR2, app.upgrade_soon)
    upgrade.release_signals()

    def ready(addresses: list[str]) -> None:
        log.info("serving %s on %s", settings.site_file, ", ".join(addresses))
        # A full garbage collection stops every thread. What there is now stays, and need not be looked at.
        gc.freeze()

    outcome = await app.run(ready, upgrade.take_lock(os.environ))
    if outcome.lock is not None:
        upgrade.hold_signals()  # while there are handlers
        await _handle_signals()
        if app.impatient:
            signal.raise_signal(signal.SIGTERM)  # for the successor
    return outcome


async def _handle_signals() -> None:
    """Have the loop call the handlers of the signals that arrived while it was kept busy: it reads of them in
    the next turn, calls the handlers in the one after that, and then comes back here."""
    for _ in range(3):
        await asyncio.sleep(0)


def _give_way(lock: int) -> NoReturn:
    """Become the code that is installed now."""
    try:
        upgrade.execute(upgrade.command_line(), lock)
    except OSError as error:
        raise click.ClickException(
            f"cannot upgrade: {error}; what runs is left to the next daemon"
        ) from error


if __name__ == "__main__":
    serve_command()
