"""The files that native agents write their output to."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from urllib.parse import quote

from hostmanager_server.core.spec import LogPolicy
from hostmanager_server.drivers.output.lines import LogLine
from hostmanager_server.drivers.output.rotation import Rotator
from hostmanager_server.drivers.output.stream import OutputStream
from hostmanager_server.drivers.output.tail import Readers, read_lines

_LONGEST_STEM = 200  # of the 255 bytes of a file name, what follows needs some


def file_stem(instance_id: str) -> str:
    """The instance id as a file name: two ids never have the same."""
    stem = quote(instance_id, safe=" +,=@")
    if stem.startswith("."):
        stem = f"%2E{stem[1:]}"
    if len(stem) > _LONGEST_STEM:  # "%-" is in no quoted text
        stem = f"{stem[: _LONGEST_STEM - 34]}%-{hashlib.sha256(instance_id.encode()).hexdigest()[:32]}"
    return stem or "%"


@functools.lru_cache(maxsize=4096)  # asked for at every start, and every time an instance is shown
def _path(directory: str, instance_id: str) -> Path:
    return Path(directory) / f"{file_stem(instance_id)}.log"


class OutputFiles:
    """One file per instance, `<directory>/<instance id>.log`, that its process holds open in append mode.

    No pipe and no work of the daemon per line: the output goes on when the daemon does not. Rotation
    happens behind the process's back and loses no byte (see log_stream), on a thread of its own (see
    rotation). Agents may write the directory: what they put there that is no file of the daemon's or the
    agent's user is refused (see log_folder).
    """

    def __init__(self, default_dir: Path) -> None:
        """`default_dir` holds the files of instances whose policy names no directory; created when needed."""
        self._default_dir = str(default_dir)
        self._lock = threading.Lock()
        self._streams: dict[Path, OutputStream] = {}
        self._rotator = Rotator()
        self._readers = Readers()

    def path(self, instance_id: str, policy: LogPolicy) -> Path:
        """Where the instance's output goes. The file need not exist."""
        return _path(policy.directory or self._default_dir, instance_id)

    def open_for_append(self, instance_id: str, policy: LogPolicy) -> int:
        """Open the instance's file, created when missing (0640), for a process to inherit; rotate it from
        now on.

        Returns a descriptor, close-on-exec, that the caller closes. Does not wait for a rotation; any
        thread may call. Raises OSError, RefusedFileError among them.
        """
        stream = self._stream(instance_id, policy)
        fd = stream.open_for_append()
        self._rotator.track(stream, policy)
        stream.announce()
        return fd

    def resume(self, instance_id: str, policy: LogPolicy) -> None:
        """Rotate the file of a process that an earlier daemon started and that still writes. Returns at
        once."""
        self._rotator.track(self._stream(instance_id, policy), policy)

    def forget(self, instance_id: str, policy: LogPolicy) -> None:
        """Rotate the instance's file no more, for it is not managed any longer; the files stay."""
        self._rotator.forget(self._stream(instance_id, policy))

    def read(
        self, instance_id: str, policy: LogPolicy, lines: int, follow: bool
    ) -> AsyncGenerator[list[LogLine], None]:
        """The instance's last `lines` lines, then with `follow` every new one, in batches; see read_lines.

        To be iterated on an asyncio loop, and closed (`aclose`) when it is left before its end.
        """
        return read_lines(self._stream(instance_id, policy), self._readers, lines, follow)

    def close(self) -> None:
        """Stop rotating and reading. Descriptors and files stay; a second call changes nothing."""
        self._rotator.close()
        self._readers.close()

    def _stream(self, instance_id: str, policy: LogPolicy) -> OutputStream:
        path = self.path(instance_id, policy)
        with self._lock:
            stream = self._streams.get(path)
            if stream is None:
                stream = self._streams[path] = OutputStream(path)
            stream.user = policy.user
            return stream
