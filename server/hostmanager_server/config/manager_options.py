"""What the host's own entry says about the daemon: OCS's HostManager agent and its arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from hostmanager_server.config.document import Scalar
from hostmanager_server.config.reader import Reader, hint_at, shown
from hostmanager_server.core.spec import Target


class PersistTargets(Enum):
    """What the targets that were asked for outlive."""

    NEVER = "never"  # every start is from the config
    CRASH = "crash"  # a crash or an upgrade of the daemon, not its end nor that of the machine
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class ManagerOptions:
    """Defaults of the daemon, which its command line overrides."""

    docker_compose: tuple[str, ...] = ()
    docker_service_prefix: str = "ocs-"
    docker_compose_bin: str = ""
    initial_state: Target | None = None  # None: what each instance's `manage` says
    persist_targets: PersistTargets = PersistTargets.CRASH
    quiet: bool = False
    address: str | None = None  # where it listens; None: the default


QUIET = "--quiet"
TAKES_VALUE = (
    "--initial-state", "--docker-compose", "--docker-service-prefix", "--docker-compose-bin",
    "--persist-targets",
)  # fmt: skip
# What OCS gives every agent (its site_config.add_arguments). None of it means anything to this daemon: it
# connects to no router, and has command line options of its own for its files.
OF_OCS = (
    "--access-policy", "--address-root", "--crossbar-timeout", "--instance-id", "--log-dir",
    "--registry-address", "--site", "--site-file", "--site-host", "--site-http", "--site-hub", "--site-realm",
    "--working-dir",
)  # fmt: skip
_KNOWN = (*TAKES_VALUE, *OF_OCS, QUIET)


def read_options(reader: Reader, words: Sequence[Scalar]) -> ManagerOptions:
    """The `arguments` of the HostManager entry, spelled as argparse takes them: `--option value`,
    `--option=value`, or the beginning of an option's name that no other begins with."""
    options = ManagerOptions()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        given, equals, value = word.text.partition("=")
        name = _option(reader, word, given)
        if name == QUIET:
            if equals:
                reader.error(word, f"{_what(QUIET)} takes no value")
            options = replace(options, quiet=True)
        elif name is not None:
            if not equals:
                if not rest or _is_option(rest[0].text):
                    reader.error(word, f"{_what(name)} needs a value")
                    continue
                word = rest.pop(0)
                value = word.text
            options = _with(reader, options, name, value, word)
    return options


def _what(option: str) -> str:
    return f"argument {option} of the HostManager entry"


def _is_option(text: str) -> bool:
    """Whether argparse would take it for one: a dash, and not a negative number."""
    return text.startswith("-") and text != "-" and not text[1:].replace(".", "", 1).isdecimal()


def _option(reader: Reader, word: Scalar, given: str) -> str | None:
    if given in _KNOWN:
        return given
    begun = [name for name in _KNOWN if name.startswith(given)] if len(given) > 2 else []
    if len(begun) == 1:
        return begun[0]
    if begun:
        reader.error(word, f"{_what(shown(given))} may be any of {', '.join(begun)}")
    else:
        hint = hint_at(given, (*TAKES_VALUE, QUIET))
        reader.warn(word, f"{_what(shown(given))} is ignored ({hint})")
    return None


def split_files(value: str) -> tuple[str, ...]:
    """The files of `--docker-compose`, which are separated by commas."""
    return tuple(file.strip() for file in value.split(",") if file.strip())


def _with(reader: Reader, options: ManagerOptions, name: str, value: str, word: Scalar) -> ManagerOptions:
    match name:
        case "--docker-compose":
            return replace(options, docker_compose=split_files(value))
        case "--docker-service-prefix":
            return replace(options, docker_service_prefix=value)
        case "--docker-compose-bin":
            return replace(options, docker_compose_bin=value)
        case "--initial-state" if value in ("up", "down"):
            return replace(options, initial_state=Target(value))
        case "--initial-state":
            reader.error(word, f"{_what(name)} must be up or down, not {shown(value)}")
        case "--persist-targets" if value in [each.value for each in PersistTargets]:
            return replace(options, persist_targets=PersistTargets(value))
        case "--persist-targets":
            reader.error(word, f"{_what(name)} must be never, crash or always, not {shown(value)}")
    return options
