"""The referee as another user: agents, daemon and all."""

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
    """The words that make a command run as this user. Raises LookupError."""
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except KeyError:
        raise LookupError(f"there is no user {user!r}") from None
    return ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups", "--"]


def interpreter_for(user: str) -> str:
    """A Python of this version that the user may execute, as ours may be in a home. Raises LookupError."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for found in (sys.executable, shutil.which(version, path="/usr/local/bin:/usr/bin:/bin")):
        # Through a shell, as setpriv itself still has root's rights when it looks for the program.
        words = [*as_user(user), "/bin/sh", "-c", '"$0" -c "import ssl"', str(found)]
        if found and subprocess.run(words, capture_output=True, check=False).returncode == 0:
            return found
    raise LookupError(f"{user} may not execute {sys.executable}, and there is no {version} in /usr/bin")


def become(user: str, module: str, arguments: Sequence[str]) -> NoReturn:
    """Go on as another user with a module of ours, in place of this process. Raises LookupError, OSError.

    That user sees the checkout in another place, as it may be below a folder that only we may enter.
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
