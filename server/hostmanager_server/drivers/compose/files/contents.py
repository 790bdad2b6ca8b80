"""Digests of the contents of secrets and configs."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping

from hostmanager.values import replace

from hostmanager_server.core.catalog import Project
from hostmanager_server.core.digests import blake2b
from hostmanager_server.core.spec import ServiceContents, ServiceSpec

_MAX_READ = 1024 * 1024  # bytes of a file that count; a swarm takes half of that as a secret


def with_contents(project: Project) -> Project:
    """Return the project with the present contents of its secrets and configs."""
    return replace(project, services={name: _with_files(each) for name, each in project.services.items()})


def inline_digest(contents: Mapping[str, str]) -> str:
    """Return the digest of contents by name; empty without contents."""
    return _digest(f"{name}\0{text}\0".encode() for name, text in sorted(contents.items()))


def _with_files(service: ServiceSpec) -> ServiceSpec:
    if not service.content_files:
        return service
    found = [_read(file) for file in service.content_files]
    contents = ServiceContents(
        files=_digest(content for content, _ in found),
        changed=max(changed for _, changed in found),
        inline=service.contents.inline,
    )
    return replace(service, contents=contents)


def _read(file: str) -> tuple[bytes, float]:
    """Return the beginning of a regular file and the time of its last change (s since 1970).

    The time includes a rename and a link in place of the file. Size and modification time stand for a file
    that the daemon may not read. Other kinds of file, which might block, have no content and no time.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except PermissionError:
        return _read_status(file)
    except OSError:
        return b"missing", 0.0
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return b"no file", 0.0
        content = os.read(descriptor, _MAX_READ)
        return b"%d\0" % status.st_size + content, max(status.st_ctime, os.lstat(file).st_ctime)
    except OSError:
        return b"unreadable", 0.0
    finally:
        os.close(descriptor)


def _read_status(file: str) -> tuple[bytes, float]:
    try:
        status = os.stat(file)
        changed = max(status.st_ctime, os.lstat(file).st_ctime)
    except OSError:
        return b"unreadable", 0.0
    if not stat.S_ISREG(status.st_mode):
        return b"no file", 0.0
    return b"%d\0%d" % (status.st_size, status.st_mtime_ns), changed


def _digest(parts: Iterable[bytes]) -> str:
    digests = [blake2b(part).digest() for part in parts]
    return blake2b(b"".join(digests), digest_size=16).hexdigest() if digests else ""
