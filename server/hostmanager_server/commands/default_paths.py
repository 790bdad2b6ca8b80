"""Default paths of the daemon's socket and state directory."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hostmanager_server.linux.trusted_paths import make_private_directory
from hostmanager_server.rpc.server import AddressError


def default_socket(environ: dict[str, str]) -> Path:
    """Return the path of the default socket, in a directory of mode 0700.

    The directory is /run/hostmanager for root, else $XDG_RUNTIME_DIR/hostmanager, else /tmp/hostmanager-UID.
    The client searches the same paths.
    """
    if os.geteuid() == 0:
        return Path("/run/hostmanager/hostmanager.sock")
    runtime = environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) / "hostmanager" if runtime else Path(f"/tmp/hostmanager-{os.geteuid()}")  # noqa: S108
    return folder / "hostmanager.sock"


def default_state_dir(environ: dict[str, str]) -> Path:
    """Return the default directory of the daemon's persistent state.

    The directory is /var/lib/hostmanager for root, else $XDG_STATE_HOME/hostmanager
    (~/.local/state/hostmanager).
    """
    if os.geteuid() == 0:
        return Path("/var/lib/hostmanager")
    state = environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path("~/.local/state").expanduser()) / "hostmanager"


def private_folder(socket: Path) -> None:
    """Create the directory of the default socket, with mode 0700.

    Raises AddressError if the directory is a link, belongs to another user, or if other users may enter the
    directory: in /tmp, any user may have created the directory.
    """
    folder = socket.parent
    try:
        if not os.path.lexists(folder):
            make_private_directory(folder)
        status = folder.lstat()
    except OSError as error:
        raise AddressError(f"cannot listen on unix:{socket}: {error.strerror}: {error.filename}") from error
    why = ""
    if not stat.S_ISDIR(status.st_mode):
        why = "is no directory" if not stat.S_ISLNK(status.st_mode) else "is a symbolic link"
    elif status.st_uid != os.geteuid():
        why = f"belongs to user {status.st_uid}"
    elif status.st_mode & 0o077:
        why = f"may be entered by others (mode {stat.S_IMODE(status.st_mode):04o})"
    if why:
        raise AddressError(
            f"cannot listen on unix:{socket}: '{folder}' {why}, but must be a directory of yours with mode "
            "0700; correct or remove the directory, or give --listen unix:PATH"
        )
