"""Output files of native agents: paths, opening, rotation and reading."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from urllib.parse import quote

from hostmanager_server.core.digests import sha256
from hostmanager_server.core.spec import LogPolicy
from hostmanager_server.drivers.output.fallback import FallbackDirectory
from hostmanager_server.drivers.output.last_output import mark_end, read_last_output, resume_mark
from hostmanager_server.drivers.output.lines import LogLine
from hostmanager_server.drivers.output.rotation import Rotator
from hostmanager_server.drivers.output.stream import OutputMark, OutputStream
from hostmanager_server.drivers.output.tail import Readers, RunWindow, read_lines
from hostmanager_server.drivers.output.wanted_lines import WantedLines

_LONGEST_STEM = 200  # bytes; a file name has at most 255, and suffixes need some


def file_stem(instance_id: str) -> str:
    """Return a file name for the instance id; two ids never share a name."""
    stem = quote(instance_id, safe=" +,=@")
    if stem.startswith("."):
        stem = f"%2E{stem[1:]}"
    if len(stem) > _LONGEST_STEM:  # quoted text never contains "%-"
        stem = f"{stem[: _LONGEST_STEM - 34]}%-{sha256(instance_id.encode()).hexdigest()[:32]}"
    return stem or "%"


@functools.lru_cache(maxsize=1 << 14)  # called for every instance in a reply
def _path(directory: str, instance_id: str) -> Path:
    return Path(directory) / f"{file_stem(instance_id)}.log"


class OutputFiles:
    """The output files: one per instance, `<directory>/<instance id>.log`.

    The process of the instance holds its file open in append mode. There is no pipe, and the daemon does no
    work per line, so output continues without the daemon. A separate thread rotates files without notice to
    the process and without losing a byte (see rotation and stream). Agents may write to the directory, so
    the daemon refuses files there that belong neither to its own user nor to the agent's (see log_directory).
    """

    def __init__(self, default_dir: Path) -> None:
        """Take the directory for policies without one; the first use creates the directory."""
        self._default_dir = str(default_dir)
        self._fallback = FallbackDirectory(self._default_dir)
        self._lock = threading.Lock()
        self._streams: dict[tuple[str, str], OutputStream] = {}  # by directory and instance id
        self._rotator = Rotator()
        self._readers = Readers()

    def path(self, instance_id: str, policy: LogPolicy) -> Path:
        """Return the path of the instance's output file, which need not exist."""
        return self._fallback.place(self._own_path(instance_id, policy))

    def listen(self, report: Callable[[str], None]) -> None:
        """Report log directories that cannot be used; see FallbackDirectory.listen."""
        self._fallback.listen(report)

    def _own_path(self, instance_id: str, policy: LogPolicy) -> Path:
        return _path(policy.directory or self._default_dir, instance_id)

    def open_for_append(self, instance_id: str, policy: LogPolicy) -> int:
        """Open the instance's file for a process to inherit, and rotate the file from now on.

        A missing file is created. If the log directory cannot be used, the file is in the default directory.
        Return a close-on-exec descriptor for the caller to close. Any thread may call; the call does not wait
        for a rotation. Raises RefusedFileError and other OSErrors.
        """
        stream = self._stream_in(policy.directory or self._default_dir, instance_id, policy)
        try:
            fd = stream.open_for_append()
        except OSError as error:
            if not self._fallback.takes(self._own_path(instance_id, policy), error):
                raise
            stream = self._stream_in(self._default_dir, instance_id, policy)
            fd = stream.open_for_append()
        else:
            if self._fallback.active:
                self._fallback.clear(self._own_path(instance_id, policy))
        stream.add_run(mark_end(stream, fd), time.time())
        self._rotator.track(stream, policy)
        stream.notify_subscribers()
        return fd

    def resume(self, instance_id: str, policy: LogPolicy) -> None:
        """Rotate the file of a running process that an earlier daemon started; return at once."""
        self._rotator.track(self._stream(instance_id, policy), policy)

    def mark(self, instance_id: str, policy: LogPolicy, fd: int) -> OutputMark:
        """Return the mark of a run that begins at the end of the instance's open file."""
        return mark_end(self._stream(instance_id, policy), fd)

    def resume_mark(
        self, instance_id: str, policy: LogPolicy, recorded: OutputMark | None
    ) -> OutputMark | None:
        """Return the mark of a run that an earlier daemon started, with its recorded mark."""
        return resume_mark(self._stream(instance_id, policy), recorded)

    def last_output(self, instance_id: str, policy: LogPolicy, mark: OutputMark | None) -> str:
        """Return the last lines that the run of the mark wrote; raise nothing, and wait for no rotation."""
        return read_last_output(self._stream(instance_id, policy), mark)

    def forget(self, instance_id: str, policy: LogPolicy) -> None:
        """Stop rotating the file of an instance that is no longer managed; keep the files."""
        self._rotator.forget(self._stream(instance_id, policy))
        if self._fallback.active:
            self._fallback.clear(self._own_path(instance_id, policy))

    def read(
        self,
        instance_id: str,
        policy: LogPolicy,
        wanted: WantedLines,
        *,
        window: RunWindow | None = None,
    ) -> AsyncGenerator[list[LogLine], None]:
        """Return the wanted lines of the instance in batches.

        The caller iterates on an asyncio loop, and calls `aclose` when leaving early. See read_lines.
        """
        return read_lines(self._stream(instance_id, policy), self._readers, wanted, window=window)

    def close(self) -> None:
        """Stop rotating and reading; descriptors and files stay. A second call changes nothing."""
        self._rotator.close()
        self._readers.close()

    def _stream(self, instance_id: str, policy: LogPolicy) -> OutputStream:
        directory = policy.directory or self._default_dir
        if policy.directory and (directory, instance_id) not in self._streams:
            self._fallback.find(self._own_path(instance_id, policy))
        if self._fallback.active and self.path(instance_id, policy) != self._own_path(instance_id, policy):
            directory = self._default_dir
        return self._stream_in(directory, instance_id, policy)

    def _stream_in(self, directory: str, instance_id: str, policy: LogPolicy) -> OutputStream:
        key = directory, instance_id
        with self._lock:
            stream = self._streams.get(key)
            if stream is None:
                stream = self._streams[key] = OutputStream(_path(directory, instance_id))
                stream.public = directory != self._default_dir
            stream.user = policy.user
            return stream
