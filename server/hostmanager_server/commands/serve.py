"""The command `hostmanager serve`: options, logging and signals."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

# The daemon starts child processes while a gRPC server runs; gRPC's fork handlers would abort some of them.
# The variable must be set before the import of grpc, and child processes must not inherit the variable.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import click
from hostmanager.distribution import version

from hostmanager_server import failpoints
from hostmanager_server.commands.serve_settings import (
    ServeFlags,
    check_addresses,
    find_places,
    make_settings,
    read_options,
)
from hostmanager_server.config.load import with_config_dir
from hostmanager_server.config.manager_options import PersistTargets
from hostmanager_server.core.printable import printable
from hostmanager_server.daemon import upgrade
from hostmanager_server.daemon.app import App, DaemonOutcome
from hostmanager_server.daemon.log import DaemonLog
from hostmanager_server.daemon.settings import DaemonSettings
from hostmanager_server.drivers.process.cgroup_delegation import AUTO
from hostmanager_server.linux import child_signals
from hostmanager_server.linux.rlimits import raise_own_files
from hostmanager_server.rpc.server import AddressError, Limits
from hostmanager_server.state.state_directory import StateDirError

log = logging.getLogger(__name__)

# A thread that computes, such as a reader of a large file, hands over the interpreter after this time, in s.
# The event loop needs the interpreter several times a call; Python's default of 5 ms would add up to seconds.
SWITCH_INTERVAL = 0.0005
# Objects made between two runs of the garbage collector, once the daemon serves.
COLLECT_AFTER = 10_000


@click.command(name="serve", context_settings={"show_default": True})
@click.argument("site_file", required=False, type=click.Path(path_type=Path))
@click.option("--site-file", "site_file_option", type=click.Path(path_type=Path), hidden=True)
@click.option(
    "--host",
    "--site-host",
    "host",
    help="The host entry to run. Default: the name of this machine, else localhost.",
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
    help="An address to listen on, unix:PATH or HOST:PORT; repeat the option for several addresses. "
    "Default: a socket in a directory that only you can enter.",
)
@click.option("--insecure", is_flag=True, help="Serve loopback TCP without credentials.")
@click.option("--reflection", is_flag=True, help="Offer gRPC server reflection over TCP too.")
@click.option(
    "--initial-state",
    type=click.Choice(["up", "down"]),
    help="The target of all instances at the start, unless --persist-targets keeps earlier targets.",
)
@click.option(
    "--persist-targets",
    type=click.Choice([each.value for each in PersistTargets]),
    show_default="crash",
    help="Keep the targets that clients set: never; after a crash or an upgrade of the daemon, but not after "
    "an orderly end or a reboot; or always.",
)
@click.option(
    "--working-dir", type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The directory of relative paths in the site config. Default: the current directory.",
)  # fmt: skip
@click.option(
    "--docker-compose",
    metavar="FILE,FILE",
    help="The compose files to manage, relative to the working directory. A colon joins the files of one "
    "project. Default: the files that the HostManager entry of the host names.",
)
@click.option(
    "--docker-service-prefix",
    metavar="PREFIX",
    show_default="ocs-",
    help="The prefix that, with an instance id, makes the name of the compose service.",
)
@click.option(
    "--docker-compose-bin",
    metavar="PATH",
    help="The docker-compose program. Default: the plugin `docker compose`, else docker-compose.",
)
@click.option(
    "--max-watchers",
    type=click.IntRange(1),
    default=Limits().watchers,
    help="The limit of concurrent watch streams.",
)
@click.option(
    "--max-watchers-per-client", type=click.IntRange(1), default=Limits().watchers_per_client,
    help="The limit of concurrent watch streams from one client host.",
)  # fmt: skip
@click.option(
    "--cgroup",
    metavar="auto|off|PATH",
    default=AUTO,
    help="The parent cgroup (version 2) of the agents' cgroups. auto: the daemon's own cgroup, if systemd "
    "delegated the cgroup to the daemon.",
)
@click.option(
    "--trust-config",
    is_flag=True,
    envvar="HOSTMANAGER_TRUST_CONFIG",
    help="Use the site config, compose files, state directory and socket folder even if other users may "
    "write them. Without this option, a daemon of root refuses such files.",
)
@click.option(
    "--strict",
    is_flag=True,
    envvar="HOSTMANAGER_STRICT",
    help="Use no site config with errors. Default: a first start uses the entries without errors.",
)
@click.option("--quiet", is_flag=True, help="Log warnings and errors only.")
@click.option(upgrade.PREFLIGHT, is_flag=True, hidden=True, help="Print the version and exit.")
def serve_command(**given: Any) -> None:
    """Run the daemon for the host that SITE_FILE describes (default: $OCS_CONFIG_DIR/default.yaml).

    SIGTERM and SIGINT stop all instances and end the daemon; a second signal leaves the instances that still
    run to the next daemon. SIGHUP reloads the site config. SIGUSR2 upgrades the daemon in place to the code
    that is installed now. The exit code is 0 after a requested end, and 1 if the daemon cannot start or
    continue.
    """
    flags = ServeFlags(**given)
    environ = dict(os.environ)
    _arm_failpoints(environ)
    places = find_places(flags, environ)
    options = read_options(flags, places)
    _set_up_process(quiet=flags.quiet or options.quiet)
    try:
        settings = make_settings(flags, places, options, environ)
        if flags.preflight:
            check_addresses(settings)
            click.echo(version())
            return
        os.environ.update(with_config_dir(environ, places.site_file))  # for agents and compose
        outcome = asyncio.run(_serve(settings))
    except (StateDirError, AddressError) as error:
        raise click.ClickException(printable(str(error))) from error
    finally:
        logging.shutdown()  # closes the log
    if outcome.lock is not None:
        _execute_installed_code(outcome.lock)
    sys.exit(outcome.code)


def _arm_failpoints(environ: dict[str, str]) -> None:
    try:
        failpoints.arm(environ)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _set_up_process(*, quiet: bool) -> None:
    child_signals.block()  # before the first thread starts another
    logging.basicConfig(
        handlers=[DaemonLog(sys.stderr.fileno(), layout="%(asctime)s %(levelname)s %(message)s")],
        level=logging.WARNING if quiet else logging.INFO,
    )
    faulthandler.enable()  # prints all stacks when systemd's watchdog ends a hung daemon by SIGABRT
    raise_own_files()
    sys.setswitchinterval(SWITCH_INTERVAL)


async def _serve(settings: DaemonSettings) -> DaemonOutcome:
    app = App(settings)
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, app.terminate, signum)
    loop.add_signal_handler(signal.SIGHUP, app.reload)
    loop.add_signal_handler(signal.SIGUSR2, app.upgrade_soon)
    upgrade.release_signals()

    def ready(addresses: list[str]) -> None:
        log.info("serving %s on %s", settings.site_file, ", ".join(addresses))
        # A full garbage collection stops every thread. Frozen objects, which stay for good, are not scanned.
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER)

    outcome = await app.run(ready, upgrade.take_lock(os.environ))
    if outcome.lock is not None:
        upgrade.hold_signals()  # while the old handlers are installed
        await _handle_signals()
        if app.impatient:
            signal.raise_signal(signal.SIGTERM)  # for the successor
    return outcome


async def _handle_signals() -> None:
    """Let the event loop handle the signals that arrived while it was busy.

    The loop reads the signals in the first turn, calls the handlers in the second, and then resumes this
    coroutine.
    """
    for _ in range(3):
        await asyncio.sleep(0)


def _execute_installed_code(lock: int) -> NoReturn:
    try:
        upgrade.execute(upgrade.command_line(), lock)
    except OSError as error:
        raise click.ClickException(
            f"cannot upgrade: {error}; running instances are left to the next daemon"
        ) from error


if __name__ == "__main__":
    serve_command()
