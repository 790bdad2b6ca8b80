"""Modules of others that load at their first use, for a quick start of the program.

asyncio and protobuf import modules that only TLS of asyncio, or protobuf without its C extension, uses; other
libraries and our own code import some for rare cases. `install` puts an empty module in the place of each;
the first read of an attribute executes the real one. They take a tenth of the start of a daemon, and some MB
of its memory. A statement `from late import name` reads an attribute.
"""

from __future__ import annotations

import sys
from _thread import RLock
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

LATE = frozenset(
    {
        "asyncio.sslproto",
        "decimal",
        "difflib",
        "google.protobuf.internal.python_message",
        "ipaddress",  # of urllib.parse, which pathlib imports
        "shutil",  # with the modules of all kinds of archives
        "ssl",
        "tempfile",  # of ctypes.util
        "textwrap",  # of click and traceback
    }
)
# The import system asks for these attributes before the module is loaded.
_NOT_YET = frozenset({"__cached__", "__file__", "__package__", "__path__"})

_loading = RLock()


def install() -> None:
    """Load the modules in LATE at their first use from now on, unless they are loaded."""
    if not any(isinstance(finder, LateFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, LateFinder())


class LateFinder:
    """A finder for the modules in LATE, in `sys.meta_path`."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the place of a module with a loader that waits."""
        spec = PathFinder.find_spec(name, path, target) if name in LATE else None
        if spec is not None and spec.loader is not None:
            spec.loader = LateLoader(spec.loader)
        return spec


class LateLoader:
    """A loader that leaves the execution of a module to the first read of an attribute."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return an empty module."""
        return LateModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave the module empty."""

    def load(self, module: LateModule) -> None:
        """Execute the module; if that fails, the next read tries again."""
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        try:
            self._loader.exec_module(module)
        except BaseException:
            module.__spec__.loader = module.__loader__ = self
            raise
        module.__class__ = ModuleType


class LateModule(ModuleType):
    """A module that is empty until the first read of an attribute."""

    def __getattr__(self, name: str) -> Any:
        """Load the module, and return an attribute; the module is an ordinary one from then on."""
        if name in _NOT_YET:
            raise AttributeError(f"the module {self.__name__!r} is not loaded")
        with _loading:  # one thread loads; the others wait
            loader = self.__spec__.loader if self.__spec__ is not None else None
            if isinstance(loader, LateLoader):
                loader.load(self)
        return ModuleType.__getattribute__(self, name)
