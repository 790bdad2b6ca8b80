"""User switching: the referee, its daemons and its agents as another user."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn


def as_user(user: str) -> list[str]:
    """Return the command prefix that runs a command as this user. Raises LookupError."""
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except KeyError:
        raise LookupError(f"there is no user {user!r}") from None
    return ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups", "--"]


def interpreter_for(user: str) -> str:
    """Return a Python of this version that the user may execute. Raises LookupError.

    The present interpreter may stand in a home directory that the user cannot enter.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for found in (sys.executable, shutil.which(version, path="/usr/local/bin:/usr/bin:/bin")):
        # Through a shell, as setpriv finds the program with the rights of root.
        words = [*as_user(user), "/bin/sh", "-c", '"$0" -c "import ssl"', str(found)]
        if found and subprocess.run(words, capture_output=True, check=False).returncode == 0:
            return found
    raise LookupError(f"{user} may not execute {sys.executable}, and there is no {version} in /usr/bin")


def become(user: str, module: str, arguments: Sequence[str]) -> NoReturn:
    """Execute a module as another user, in place of this process. Raises LookupError, OSError.

    A bind mount shows the checkout at a public path, as the user may be unable to enter its folder.
    """
    checkout = Path(__file__).resolve().parents[2]
    public = Path(tempfile.gettempdir(), "referee-checkout")
    public.mkdir(mode=0o755, exist_ok=True)

    def moved(path: str) -> str:
        place = Path(path or os.curdir).absolute()
        return str(public / place.relative_to(checkout) if place.is_relative_to(checkout) else place)

    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(moved, sys.path))}
    mount = f'mount --bind {shlex.quote(str(checkout))} {public} && cd {public} && exec "$@"'
    words = ["unshare", "--mount", "--propagation", "private", "--", "/bin/sh", "-c", mount, "sh"]
    words += [*as_user(user), interpreter_for(user), "-m", module, *arguments]
    os.execvpe(words[0], words, environ)
