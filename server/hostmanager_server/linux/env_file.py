"""Environment files: their variables, and the check of their owners and modes."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Collection, Mapping

from hostmanager.values import dataclass, field

from hostmanager_server.core.digests import sha256
from hostmanager_server.linux import sd_notify
from hostmanager_server.linux.accounts import describe_user, is_private_group
from hostmanager_server.linux.env_format import EnvFormatError, parse_env

MAX_BYTES = 1024 * 1024
MAX_LINKS = 40  # the limit of the kernel
# RESERVED are the names by which the daemon finds its agents; variables with the prefix CARRIER pass values
# to the shell that runs as the agent's user.
RESERVED = frozenset({"HOSTMANAGER_GATE", "HOSTMANAGER_INSTANCE_ID", "HOSTMANAGER_RUN"})
CARRIER = "HOSTMANAGER_ENV_"


class EnvFileError(Exception):
    """An env file that the daemon cannot use; the text quotes no value of the file.

    The text gives reason and remedy.
    """


@dataclass(frozen=True, slots=True)
class EnvFileContent:
    """The variables of an env file.

    `digest` is equal for equal variables, however the file writes them. `warnings` name changes that other
    users may make to the file.
    """

    variables: Mapping[str, str] = field(repr=False)
    digest: str
    warnings: tuple[str, ...] = ()


def read_env_file(path: str, user: int | None = None, *, optional: bool = False) -> EnvFileContent:
    """Return the variables of the file at an absolute path, for an agent of `user`.

    None is the daemon's own user. As root, the daemon refuses a file that others than root and that user
    may write or replace; as another user, it warns. An optional file that is missing has no variables.
    Raises EnvFileError.
    """
    try:
        check = _check_path(path, {0, os.geteuid(), user})
        info, data = _open_and_read(path)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        if missing and optional:
            return EnvFileContent({}, digest_of({}))
        advice = "create the file or change 'env-file'" if missing else "correct the cause"
        raise EnvFileError(f"cannot read env-file '{path}': {error.strerror}; {advice}") from error
    except ValueError as error:  # a NUL byte in the path
        raise EnvFileError(f"cannot read env-file '{path}': {error}; correct 'env-file'") from error
    reason = check.reason or _untrusted_file(info, {0, os.geteuid(), user})
    # A link of the agent's user on the path must not give access to a file that only other users may read.
    if not reason and check.foreign and info.st_uid != user:
        reason = (
            f"{check.foreign} may replace the file, and does not own it; "
            "move the file, or chown it to that user"
        )
    if reason and os.geteuid() == 0:
        raise EnvFileError(f"cannot use env-file '{path}': {reason}")
    if len(data) > MAX_BYTES:
        raise EnvFileError(
            f"cannot use env-file '{path}': it has more than {MAX_BYTES >> 20} MiB; shorten it"
        )
    warnings = [f"env-file '{path}': {reason}"] if reason else []
    if info.st_mode & stat.S_IROTH:
        warnings.append(f"env-file '{path}': every user of this machine may read the file; chmod o-r")
    variables = _parse(path, data)
    return EnvFileContent(variables, digest_of(variables), tuple(warnings))


def digest_of(variables: Mapping[str, str]) -> str:
    """Return a digest that distinguishes contents and reveals no value."""
    return sha256(json.dumps(sorted(variables.items())).encode()).hexdigest()


def _open_and_read(path: str) -> tuple[os.stat_result, bytes]:
    """Return the state of a regular file and its first `MAX_BYTES` + 1 bytes.

    Raises OSError, ValueError, EnvFileError.
    """
    # Opening a device or a pipe may have side effects, so the kind comes first.
    found = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        info = os.fstat(found)
        if not stat.S_ISREG(info.st_mode):
            raise EnvFileError(f"cannot read env-file '{path}': not a regular file; name a regular file")
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
            raise EnvFileError(
                f"cannot use env-file '{path}': agents never receive {name}; remove the variable"
            )
    return variables


@dataclass(frozen=True, slots=True)
class _PathCheck:
    """The result of a path check.

    `reason`: why the path is untrusted, or empty. `foreign`: the agent's user, if that user may replace a
    part of the path.
    """

    reason: str = ""
    foreign: str = ""


def _check_path(path: str, trusted: Collection[int | None]) -> _PathCheck:
    """Check every directory and link on the path as the kernel follows it.

    Raises OSError, ValueError.
    """
    foreign = ""
    at, rest, links = "/", [part for part in path.split("/") if part], 0
    while True:
        folder = os.stat(at)
        if folder.st_uid not in trusted:
            return _PathCheck(
                f"{describe_user(folder.st_uid)} owns {at}, and may replace the file; move it, or chown {at}"
            )
        if not folder.st_mode & stat.S_ISVTX and (writers := _other_writers(folder)):
            return _PathCheck(f"{writers} may replace the file by writing {at}; chmod go-w {at}")
        if folder.st_uid not in (0, os.geteuid()):
            foreign = describe_user(folder.st_uid)
        if not rest:
            return _PathCheck(foreign=foreign)
        part = rest.pop(0)
        there = os.path.join(at, part)
        info = os.lstat(there)
        if info.st_uid not in trusted:
            return _PathCheck(f"{describe_user(info.st_uid)} owns {there}; chown it")
        if stat.S_ISLNK(info.st_mode):
            links += 1
            if links > MAX_LINKS:
                return _PathCheck("the path has too many links; name the file itself")
            target = os.readlink(there)
            if info.st_uid not in (0, os.geteuid()):
                foreign = describe_user(info.st_uid)
            at = "/" if target.startswith("/") else at
            rest = [part for part in target.split("/") if part] + rest
        elif part == ".." or stat.S_ISDIR(info.st_mode):
            at = os.path.normpath(there)  # every link is resolved
        else:
            return _PathCheck(foreign=foreign)


def _untrusted_file(info: os.stat_result, trusted: Collection[int | None]) -> str:
    if info.st_uid not in trusted:
        return f"{describe_user(info.st_uid)} owns the file, and may change it; chown it"
    writers = _other_writers(info)
    return f"{writers} may write the file; chmod go-w" if writers else ""


def _other_writers(info: os.stat_result) -> str:
    """Return the other users with write permission, for a message; empty for none."""
    if info.st_mode & stat.S_IWOTH:
        return "every user of this machine"
    if info.st_mode & stat.S_IWGRP and info.st_gid != 0 and not is_private_group(info.st_uid, info.st_gid):
        return "its group"
    return ""
