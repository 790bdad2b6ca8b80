"""Environment files on disk: their variables, and the users who may have written them."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from hostmanager_server.linux import sd_notify
from hostmanager_server.linux.accounts import describe_user, is_private_group
from hostmanager_server.linux.env_format import EnvFormatError, parse_env

MAX_BYTES = 1024 * 1024
MAX_LINKS = 40  # as the kernel follows
# The daemon finds its agents by these, and hands values over in those.
RESERVED = frozenset({"HOSTMANAGER_GATE", "HOSTMANAGER_INSTANCE_ID", "HOSTMANAGER_RUN"})
CARRIER = "HOSTMANAGER_ENV_"


class EnvFileError(Exception):
    """A file that gives no environment; the text says why, without any value of it, and what to do."""


@dataclass(frozen=True, slots=True)
class EnvFileContent:
    """What a file says. `digest` is the same for the same variables, however they are written; `warnings`
    name what others may do with the file."""

    variables: Mapping[str, str] = field(repr=False)
    digest: str
    warnings: tuple[str, ...] = ()


def read_env_file(path: str, user: int | None = None, *, optional: bool = False) -> EnvFileContent:
    """Read the file at an absolute path, for an agent of the user of this number (None: the daemon's own).

    As root the daemon refuses a file that others than root and that user may write or replace; as another
    user it warns. An optional file that is missing says nothing. Raises EnvFileError.
    """
    try:
        way = _walk(path, {0, os.geteuid(), user})
        info, data = _open_and_read(path)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        if missing and optional:
            return EnvFileContent({}, digest_of({}))
        advice = "create it or change 'env-file'" if missing else "correct that"
        raise EnvFileError(f"cannot read env-file '{path}': {error.strerror}; {advice}") from error
    except ValueError as error:  # a NUL in the path
        raise EnvFileError(f"cannot read env-file '{path}': {error}; correct 'env-file'") from error
    reason = way.reason or _untrusted_file(info, {0, os.geteuid(), user})
    # A user who could put a link there must not get at what only others may read.
    if not reason and way.foreign and info.st_uid != user:
        reason = f"{way.foreign} may replace it, and does not own it; move it, or chown it to that user"
    if reason and os.geteuid() == 0:
        raise EnvFileError(f"cannot use env-file '{path}': {reason}")
    if len(data) > MAX_BYTES:
        raise EnvFileError(
            f"cannot use env-file '{path}': it has more than {MAX_BYTES >> 20} MiB; shorten it"
        )
    warnings = [f"env-file '{path}': {reason}"] if reason else []
    if info.st_mode & stat.S_IROTH:
        warnings.append(f"env-file '{path}': everybody on this machine may read it; chmod o-r")
    variables = _parse(path, data)
    return EnvFileContent(variables, digest_of(variables), tuple(warnings))


def digest_of(variables: Mapping[str, str]) -> str:
    """Return what tells one content from another, and gives none of it away."""
    return hashlib.sha256(json.dumps(sorted(variables.items())).encode()).hexdigest()


def _open_and_read(path: str) -> tuple[os.stat_result, bytes]:
    """Return the state of a regular file and its beginning. Raises OSError, ValueError, EnvFileError."""
    # A device, or a pipe, may do something when it is opened: look at it first.
    found = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        info = os.fstat(found)
        if not stat.S_ISREG(info.st_mode):
            raise EnvFileError(f"cannot read env-file '{path}': it is no regular file; name one")
        try:
            with open(f"/proc/self/fd/{found}", "rb") as file:
                return info, file.read(MAX_BYTES + 1)
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(found)


def _parse(path: str, data: bytes) -> Mapping[str, str]:
    try:
        variables = parse_env(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise EnvFileError(f"cannot use env-file '{path}': line {line} is not UTF-8 text") from None
    except EnvFormatError as error:
        raise EnvFileError(f"cannot use env-file '{path}': line {error.line} {error.message}") from None
    for name in variables:
        if name in sd_notify.PRIVATE_VARIABLES or name in RESERVED or name.startswith(CARRIER):
            raise EnvFileError(f"cannot use env-file '{path}': agents are never given {name}; remove it")
    return variables


@dataclass(frozen=True, slots=True)
class _Way:
    """What others may do on the way to a file: `reason` not to trust it, if there is one; `foreign` names the
    agent's user who may replace a part of it."""

    reason: str = ""
    foreign: str = ""


def _walk(path: str, trusted: Collection[int | None]) -> _Way:
    """Walk to the file as the kernel does, every link included. Raises OSError, ValueError."""
    foreign = ""
    at, rest, links = "/", [part for part in path.split("/") if part], 0
    while True:
        folder = os.stat(at)
        if folder.st_uid not in trusted:
            return _Way(
                f"{describe_user(folder.st_uid)} owns {at}, and may replace it; move it, or chown {at}"
            )
        if not folder.st_mode & stat.S_ISVTX and (who := _other_writers(folder)):
            return _Way(f"{who} may replace it by writing {at}; chmod go-w {at}")
        if folder.st_uid not in (0, os.geteuid()):
            foreign = describe_user(folder.st_uid)
        if not rest:
            return _Way(foreign=foreign)
        part = rest.pop(0)
        there = os.path.join(at, part)
        info = os.lstat(there)
        if info.st_uid not in trusted:
            return _Way(f"{describe_user(info.st_uid)} owns {there}; chown it")
        if stat.S_ISLNK(info.st_mode):
            links += 1
            if links > MAX_LINKS:
                return _Way("it is behind too many links; name the file itself")
            target = os.readlink(there)
            if info.st_uid not in (0, os.geteuid()):
                foreign = describe_user(info.st_uid)
            at = "/" if target.startswith("/") else at
            rest = [part for part in target.split("/") if part] + rest
        elif part == ".." or stat.S_ISDIR(info.st_mode):
            at = os.path.normpath(there)  # no link is left in it
        else:
            return _Way(foreign=foreign)


def _untrusted_file(info: os.stat_result, trusted: Collection[int | None]) -> str:
    if info.st_uid not in trusted:
        return f"{describe_user(info.st_uid)} owns it, and may change it; chown it"
    who = _other_writers(info)
    return f"{who} may write it; chmod go-w" if who else ""


def _other_writers(info: os.stat_result) -> str:
    """Name those other than its owner and root who may write a thing by its mode; empty when none may."""
    if info.st_mode & stat.S_IWOTH:
        return "everybody on this machine"
    if info.st_mode & stat.S_IWGRP and info.st_gid != 0 and not is_private_group(info.st_uid, info.st_gid):
        return "its group"
    return ""
