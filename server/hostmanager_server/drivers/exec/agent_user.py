"""Users and groups that agents run as, and the program that switches to them."""

from __future__ import annotations

import grp
import os
import pwd
import shutil

from hostmanager.values import dataclass

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MAX_ID = 2**32 - 2  # the number above means "no change" in system calls
_SHELL = "/bin/sh"


class AccountError(Exception):
    """A user or group that an agent cannot run as; the text is for the operator."""


@dataclass(frozen=True, slots=True)
class AgentUser:
    """A user with the values of the user database; `known` is False for a number without an entry."""

    uid: int
    gid: int
    name: str
    home: str = "/"
    shell: str = _SHELL
    known: bool = True

    @property
    def variables(self) -> dict[str, str]:
        """The variables by which programs know the user that they run as."""
        return {"HOME": self.home, "LOGNAME": self.name, "SHELL": self.shell, "USER": self.name}


def find_user(user: str) -> AgentUser:
    """Return a user given by name or number.

    A number needs no entry in the user database; its group then has the same number. Raises AccountError.
    """
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        if user.isdecimal() and int(user) <= _MAX_ID:
            return AgentUser(int(user), int(user), user, known=False)
        raise AccountError(f"there is no user '{user}' on this host; create it or change 'user'") from None
    return AgentUser(entry.pw_uid, entry.pw_gid, entry.pw_name, entry.pw_dir, entry.pw_shell or _SHELL)


def find_group(group: str) -> int:
    """Return the number of a group given by name or number. Raises AccountError."""
    if group.isdecimal() and int(group) <= _MAX_ID:
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise AccountError(f"there is no group '{group}' on this host; create it or change 'group'") from None


def switch_to(user: AgentUser | None, group: str) -> list[str]:
    """Return the words before a command that switch the user and the group; none where both are the daemon's.

    Without a `user`, only the group changes. The agent has the user's other groups, too; a user without an
    entry has none. Raises AccountError.
    """
    if user is None and not group:
        return []
    wanted = user or find_user(str(os.geteuid()))
    gid = find_group(group) if group else _own_group(wanted)
    is_own = os.geteuid() == wanted.uid == os.getuid()
    if is_own and (not group or os.getegid() == gid == os.getgid()):
        return []
    switch = f"user '{wanted.name}'" if not is_own else f"group '{group}'"
    if os.geteuid() != 0:
        key = "user" if not is_own else "group"
        raise AccountError(
            f"switching to {switch} needs root, and the daemon is not root; "
            f"run the daemon as root or remove '{key}'"
        )
    setpriv = shutil.which("setpriv", path=_PATH)
    if setpriv is None:
        raise AccountError(f"switching to {switch} needs the program 'setpriv'; install util-linux")
    others = "--init-groups" if wanted.known else "--clear-groups"
    return [setpriv, f"--reuid={wanted.uid}", f"--regid={gid}", others, "--"]


def _own_group(user: AgentUser) -> int:
    """Return the group of a user; the number of a user without an entry must be no group of others."""
    if not user.known and user.uid != os.geteuid():
        try:
            other = grp.getgrgid(user.gid).gr_name
        except KeyError:
            return user.gid
        raise AccountError(
            f"user {user.name} has no entry in the user database, and group {user.gid} is '{other}', of "
            "other users; set 'group'"
        )
    return user.gid
