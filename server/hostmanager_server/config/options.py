"""What the host's own entry says about the daemon: OCS's HostManager agent and its arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from yaml.nodes import Node

from hostmanager_server.config.reader import Reader, suggest
from hostmanager_server.core.spec import Target


@dataclass(frozen=True, slots=True)
class ManagerOptions:
    """Defaults of the daemon, which its command line overrides."""

    docker_compose: tuple[str, ...] = ()
    docker_service_prefix: str = "ocs-"
    docker_compose_bin: str = ""
    initial_state: Target | None = None  # None: what each instance's `manage` says
    quiet: bool = False
    address: str | None = None  # where it listens; None: the default


_TAKES_VALUE = ("--initial-state", "--docker-compose", "--docker-service-prefix", "--docker-compose-bin")
# What OCS gives every agent, and means nothing to a daemon without a message router.
_OF_OCS = ("--log-dir", "--working-dir", "--site", "--site-file", "--site-host", "--site-hub", "--site-http",
           "--site-realm", "--address-root", "--registry-address", "--crossbar-timeout", "--instance-id",
           "--access-policy")  # fmt: skip


def read_options(reader: Reader, node: Node | None, words: Sequence[str]) -> ManagerOptions:
    """The `arguments` of the HostManager entry, spelled as argparse takes them."""
    options = ManagerOptions()
    rest = list(words)
    while rest:
        word, equals, value = rest.pop(0).partition("=")
        if word == "--quiet":
            options = replace(options, quiet=True)
            continue
        if word not in _TAKES_VALUE and word not in _OF_OCS:
            hint = suggest(word, (*_TAKES_VALUE, "--quiet"))
            reader.warn(node, f"argument {word!r} of the HostManager entry is ignored {hint}".rstrip())
            continue
        if not equals:
            if not rest:
                reader.error(node, f"argument {word} of the HostManager entry needs a value")
                break
            value = rest.pop(0)
        match word:
            case "--docker-compose":
                files = tuple(file.strip() for file in value.split(",") if file.strip())
                options = replace(options, docker_compose=files)
            case "--docker-service-prefix":
                options = replace(options, docker_service_prefix=value)
            case "--docker-compose-bin":
                options = replace(options, docker_compose_bin=value)
            case "--initial-state":
                if value in ("up", "down"):
                    options = replace(options, initial_state=Target(value))
                else:
                    reader.error(node, f"argument --initial-state must be up or down, not {value!r}")
    return options
