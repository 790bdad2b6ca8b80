"""Names of threads, as `top -H` and /proc show them."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path


def name_this_thread(name: str) -> None:
    """Give the calling thread this name in the kernel, which keeps 15 characters (Python 3.14 does that).
    One without a name of its own shows that of the thread which started it."""
    with suppress(OSError):
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(name)
