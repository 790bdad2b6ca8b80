"""Options of the daemon in the HostManager entry of its host."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from hostmanager.values import dataclass, replace

from hostmanager_server.config.document import Scalar
from hostmanager_server.config.node_reader import Reader, hint_at, shown
from hostmanager_server.core.spec import Target


class PersistTargets(Enum):
    """The events after which the targets that clients set stay in force."""

    NEVER = "never"  # each start takes the targets of the config
    CRASH = "crash"  # after a crash or an upgrade of the daemon, not after its orderly end or a reboot
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class ManagerOptions:
    """Defaults of the daemon; its command line overrides them."""

    docker_compose: tuple[str, ...] = ()
    docker_service_prefix: str = "ocs-"
    docker_compose_bin: str = ""
    initial_state: Target | None = None  # None: the `manage` of each instance
    persist_targets: PersistTargets = PersistTargets.CRASH
    quiet: bool = False
    address: str | None = None  # the address to listen on; None: the default


QUIET = "--quiet"
TAKES_VALUE = (
    "--initial-state", "--docker-compose", "--docker-service-prefix", "--docker-compose-bin",
    "--persist-targets",
)  # fmt: skip
# Arguments that OCS gives every agent (ocs/site_config.py, add_arguments). The daemon ignores them: there is
# no router, and the daemon's own command line names its files.
OF_OCS = (
    "--access-policy", "--address-root", "--crossbar-timeout", "--instance-id", "--log-dir",
    "--registry-address", "--site", "--site-file", "--site-host", "--site-http", "--site-hub", "--site-realm",
    "--working-dir",
)  # fmt: skip
_KNOWN = (*TAKES_VALUE, *OF_OCS, QUIET)


def read_options(reader: Reader, words: Sequence[Scalar]) -> ManagerOptions:
    """Return the options in the `arguments` of the HostManager entry.

    The spellings are those of argparse: `--option value`, `--option=value`, or an unambiguous beginning of an
    option's name.
    """
    options = ManagerOptions()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        given, equals, value = word.text.partition("=")
        name = _option(reader, word, given)
        if name == QUIET:
            if equals:
                reader.error(word, f"{_label(QUIET)} takes no value")
            options = replace(options, quiet=True)
        elif name is not None:
            if not equals:
                if not rest or _is_option(rest[0].text):
                    reader.error(word, f"{_label(name)} needs a value")
                    continue
                word = rest.pop(0)
                value = word.text
            options = _with_option(reader, options, name, value, word)
    return options


def _label(option: str) -> str:
    return f"argument {option} of the HostManager entry"


def _is_option(text: str) -> bool:
    """Return whether argparse takes the text for an option.

    An option begins with a dash, and is no negative number.
    """
    return text.startswith("-") and text != "-" and not text[1:].replace(".", "", 1).isdecimal()


def _option(reader: Reader, word: Scalar, given: str) -> str | None:
    if given in _KNOWN:
        return given
    candidates = [name for name in _KNOWN if name.startswith(given)] if len(given) > 2 else []
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        reader.error(word, f"{_label(shown(given))} may be any of {', '.join(candidates)}")
    else:
        hint = hint_at(given, (*TAKES_VALUE, QUIET))
        reader.warn(word, f"{_label(shown(given))} is ignored ({hint})")
    return None


def split_files(value: str) -> tuple[str, ...]:
    """Return the files of `--docker-compose`, which commas separate."""
    return tuple(file.strip() for file in value.split(",") if file.strip())


def _with_option(
    reader: Reader, options: ManagerOptions, name: str, value: str, word: Scalar
) -> ManagerOptions:
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
            reader.error(word, f"{_label(name)} must be up or down, not {shown(value)}")
        case "--persist-targets" if value in [each.value for each in PersistTargets]:
            return replace(options, persist_targets=PersistTargets(value))
        case "--persist-targets":
            reader.error(word, f"{_label(name)} must be never, crash or always, not {shown(value)}")
    return options
