"""The modules that `serve` loads before the daemon answers."""

from __future__ import annotations

import subprocess
import sys
from threading import Barrier, Thread
from types import ModuleType
from typing import Any

import pytest
from hostmanager import late_modules

# Each takes some milliseconds or megabytes, and a daemon with native processes never needs it.
UNNEEDED = {
    "dataclasses",
    "docker",
    "email",
    "google.protobuf.descriptor_pb2",  # of reflection
    "google.protobuf.text_format",
    "http.client",
    "importlib.metadata",
    "multiprocessing",
    "random",
    "requests",
    "rich",
    "unittest",
    "xml",
    "hashlib",  # loads OpenSSL
    "_ssl",
}


def test_serve_loads_no_module_that_the_daemon_never_needs() -> None:
    program = (
        "import sys; from hostmanager import late_modules; late_modules.install()\n"
        "import hostmanager_client.cli.app, hostmanager_server.commands.serve\n"
        f"print(*sorted({UNNEEDED!r} & sys.modules.keys()))\n"
        "import ssl, textwrap\n"
        "assert ssl.create_default_context().check_hostname and textwrap.dedent(' x') == 'x'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


class FakeLoader:
    """A loader that defines `value`, or fails at first."""

    def __init__(self, failures: int = 0) -> None:
        self.runs = 0
        self._failures = failures

    def exec_module(self, module: Any) -> None:
        self.runs += 1
        if self.runs <= self._failures:
            raise ImportError("no such library")
        assert not hasattr(module, "value")
        module.value = self.runs


def late_module(loader: Any) -> Any:
    """Return a module that the loader fills at the first use."""
    from importlib.util import module_from_spec, spec_from_loader

    late: Any = late_modules.LateLoader(loader)
    spec = spec_from_loader("late", late)
    assert spec is not None
    return module_from_spec(spec)


def test_a_late_module_loads_at_the_first_use() -> None:
    loader: Any = FakeLoader()
    module = late_module(loader)
    assert not hasattr(module, "__path__")
    assert loader.runs == 0
    assert (module.value, module.value, loader.runs) == (1, 1, 1)
    assert type(module) is ModuleType
    assert module.__loader__ is loader
    with pytest.raises(AttributeError, match="unknown"):
        _ = module.unknown


def test_a_late_module_that_fails_is_tried_again() -> None:
    loader = FakeLoader(failures=1)
    module = late_module(loader)
    with pytest.raises(ImportError, match="no such library"):
        _ = module.value
    assert module.value == 2


def test_threads_load_a_late_module_once() -> None:
    loader = FakeLoader()
    module = late_module(loader)
    together = Barrier(4)
    values: list[int] = []

    def read() -> None:
        together.wait()
        values.append(module.value)

    threads = [Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (values, loader.runs) == ([1, 1, 1, 1], 1)
