"""Thread names, as `top -H` and /proc show them."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path


def name_this_thread(name: str) -> None:
    """Set the kernel's name of the calling thread, at most 15 characters.

    Python does so itself from 3.14 on. A thread without a name shows the name of its creator.
    """
    with suppress(OSError):
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(name)
