"""Names of users and groups, and private groups."""

from __future__ import annotations

import grp
import pwd


def user_name(uid: int) -> str:
    """Return the name of a user; the number as text for a user without an entry."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def describe_user(uid: int) -> str:
    """Return a user for a message: "user 'alice'", or "user 1001" without an entry."""
    name = user_name(uid)
    return f"user {name}" if name == str(uid) else f"user {name!r}"


def describe_group(gid: int) -> str:
    """Return a group for a message: "group 'staff'", or "group 50" without an entry."""
    try:
        return f"group {grp.getgrgid(gid).gr_name!r}"
    except KeyError:
        return f"group {gid}"


def is_private_group(uid: int, gid: int) -> bool:
    """Return whether a group is the user's own: with that name and no other member.

    Distributions set up such a private group for each user; the user's files may then be open to the group.
    """
    try:
        user, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    return user.pw_gid == gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
