"""The choice of the cgroup that the daemon uses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hostmanager_server.drivers.process.cgroup_delegation import (
    AUTO,
    OFF,
    Mount,
    find_cgroups,
    own_directory,
    parse_mounts,
)

HYBRID = r"""31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
"""
ODD = "41 31 0:38 /a\\040b /odd\\040place rw - cgroup2 cgroup2 rw\n"


def test_the_cgroup2_mounts_are_found_among_others() -> None:
    assert parse_mounts(HYBRID) == [Mount("/", "/sys/fs/cgroup/unified", os.makedev(0, 38))]
    assert parse_mounts(ODD) == [Mount("/a b", "/odd place", os.makedev(0, 38))]
    assert parse_mounts("") == []


@pytest.mark.parametrize(
    ("membership", "root", "directory"),
    [
        ("3:cpu:/x\n0::/\n", "/", "/cg"),
        ("0::/system.slice/hm.service\n", "/", "/cg/system.slice/hm.service"),
        ("0::/docker/1/hm\n", "/docker/1", "/cg/hm"),
        ("0::/docker/1\n", "/docker/1", "/cg"),
        ("0::/docker/12\n", "/docker/1", None),
        ("0::/../elsewhere\n", "/docker/1", None),
        ("3:cpu:/x\n", "/", None),
    ],
)
def test_the_own_cgroup_is_where_a_mount_shows_it(membership: str, root: str, directory: str | None) -> None:
    assert own_directory(membership, [Mount(root, "/cg", 1)]) == directory


def test_a_cgroup_that_was_not_delegated_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert find_cgroups(AUTO, tmp_path).directory is None
    assert find_cgroups(OFF, tmp_path).directory is None
    assert caplog.text == ""


def test_a_named_cgroup_is_used_in_a_directory_for_each_state_directory(tmp_path: Path, cgroup: Path) -> None:
    one, two = (find_cgroups(str(cgroup), tmp_path / name) for name in ("one", "two"))
    assert one.directory != two.directory
    for groups in (one, two):
        assert groups.directory is not None
        assert Path(groups.directory).parent == cgroup
        groups.close()
    assert not any(entry.is_dir() for entry in cgroup.iterdir())


def test_a_path_without_cgroup_is_logged_and_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for wanted in (tmp_path, tmp_path / "nowhere", Path("/proc")):
        assert find_cgroups(str(wanted), tmp_path).directory is None
        assert f"cannot use the cgroup '{wanted}'" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_cgroup_that_refuses_processes_is_logged_and_not_used(
    tmp_path: Path, cgroup: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (cgroup / "cgroup.max.descendants").write_text("1")
    assert find_cgroups(str(cgroup), tmp_path).directory is None
    assert not any(entry.is_dir() for entry in cgroup.iterdir())
    (cgroup / "cgroup.max.descendants").write_text("max")
    (cgroup / "threaded").mkdir()
    (cgroup / "threaded" / "cgroup.type").write_text("threaded")
    assert find_cgroups(str(cgroup), tmp_path).directory is None
    assert caplog.text.count("cannot use the cgroup") == 2
    (cgroup / "threaded").rmdir()
    assert not any(entry.is_dir() for entry in cgroup.iterdir())
