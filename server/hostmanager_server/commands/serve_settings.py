"""Settings of `hostmanager serve`, from command line and site config."""

from __future__ import annotations

from pathlib import Path

import click
from hostmanager.values import dataclass, field, replace

from hostmanager_server.commands.default_paths import default_socket, default_state_dir, private_folder
from hostmanager_server.config.last_good import LastGood
from hostmanager_server.config.load import default_site_file
from hostmanager_server.config.manager_options import ManagerOptions, PersistTargets, split_files
from hostmanager_server.config.reload import RepeatedLoad
from hostmanager_server.core.spec import Target
from hostmanager_server.daemon.settings import ComposeSettings, DaemonSettings
from hostmanager_server.linux.trusted_paths import Trust
from hostmanager_server.rpc.limits import Limits
from hostmanager_server.rpc.listen import ListenAddress, check_socket_folder, parse_listen
from hostmanager_server.state.state_directory import StateDirError, check_state_dir


@dataclass(frozen=True, slots=True)
class ServeFlags:
    """The command line of `hostmanager serve`.

    The help text of each option describes its field.
    """

    site_file: Path | None
    site_file_option: Path | None
    host: str | None
    state_dir: Path | None
    listen: tuple[str, ...]
    insecure: bool
    reflection: bool
    initial_state: str | None
    persist_targets: str | None
    working_dir: Path | None
    docker_compose: str | None
    docker_service_prefix: str | None
    docker_compose_bin: str | None
    max_watchers: int
    max_watchers_per_client: int
    cgroup: str
    trust_config: bool
    strict: bool
    quiet: bool
    preflight: bool


@dataclass(frozen=True, slots=True)
class ServePlaces:
    """The site config file and directories of a daemon, and their rule of trust."""

    site_file: Path
    state_dir: Path
    working_dir: Path
    trust: Trust
    site: RepeatedLoad = field(default_factory=RepeatedLoad, compare=False, repr=False)


def find_places(flags: ServeFlags, environ: dict[str, str]) -> ServePlaces:
    """Return the places, from the flags, the environment and the defaults.

    Raises click's UsageError.
    """
    try:
        site = flags.site_file or flags.site_file_option or default_site_file(environ)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return ServePlaces(
        site.absolute(),
        (flags.state_dir or default_state_dir(environ)).absolute(),
        (flags.working_dir or Path.cwd()).absolute(),
        Trust.of_this_process(override=flags.trust_config),
    )


def read_options(flags: ServeFlags, places: ServePlaces) -> ManagerOptions:
    """Return the options of the HostManager entry in the site config.

    If the file has errors, the options come from the copy of the last config in force.
    """
    try:
        check_state_dir(places.state_dir, places.trust)  # before the daemon reads any file there
    except StateDirError as error:
        raise click.ClickException(str(error)) from error
    file, folder = places.site_file, places.working_dir
    loaded = places.site.load(file, host=flags.host, working_dir=folder, trust=places.trust)
    last_good = LastGood(places.state_dir)
    return last_good.in_place_of(loaded, file, host=flags.host, working_dir=folder).options


def make_settings(
    flags: ServeFlags, places: ServePlaces, options: ManagerOptions, environ: dict[str, str]
) -> DaemonSettings:
    """Return the settings of the daemon.

    The option of the HostManager entry takes the place of a missing flag.
    """
    return DaemonSettings(
        site_file=places.site_file,
        state_dir=places.state_dir,
        listen=_addresses(flags, options, environ),
        host=flags.host,
        working_dir=places.working_dir,
        initial_state=Target(flags.initial_state) if flags.initial_state else options.initial_state,
        persist=PersistTargets(flags.persist_targets) if flags.persist_targets else options.persist_targets,
        tcp_reflection=flags.reflection,
        options=options,
        compose=_compose(
            options, flags.docker_compose, flags.docker_service_prefix, flags.docker_compose_bin
        ),
        limits=replace(
            Limits(), watchers=flags.max_watchers, watchers_per_client=flags.max_watchers_per_client
        ),
        cgroup=flags.cgroup,
        trust=places.trust,
        strict=flags.strict,
        site=places.site,
    )


def _addresses(
    flags: ServeFlags, options: ManagerOptions, environ: dict[str, str]
) -> tuple[ListenAddress, ...]:
    """Return the addresses to listen on.

    Raises AddressError for one that the daemon cannot serve.
    """
    if flags.listen:
        return tuple(parse_listen(text, insecure=flags.insecure) for text in flags.listen)
    if options.address:
        return (parse_listen(options.address, insecure=flags.insecure),)
    socket = default_socket(environ)
    private_folder(socket)
    return (parse_listen(f"unix:{socket}", insecure=flags.insecure),)


def check_addresses(settings: DaemonSettings) -> None:
    """Raise AddressError if the daemon would refuse the folder of a socket.

    The preflight of an upgrade then fails, and the running daemon stays.
    """
    for address in settings.listen:
        if address.socket is not None:
            check_socket_folder(address.socket, settings.trust)


def _compose(
    options: ManagerOptions, files: str | None, prefix: str | None, program: str | None
) -> ComposeSettings | None:
    """Return the settings for compose from the flags, else from the HostManager entry."""
    chosen = split_files(files) if files is not None else options.docker_compose
    if not chosen:
        return None
    return ComposeSettings(
        files=chosen,
        prefix=options.docker_service_prefix if prefix is None else prefix,
        program=options.docker_compose_bin if program is None else program,
    )
