"""Members of a tree by descent from its main process."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hostmanager_server.drivers.process.descent_table import DescentTable
from hostmanager_server.drivers.process.process_table import ProcessTree
from hostmanager_server.linux.subreaper import Orphans, set_subreaper

BY_A_THREAD = """
import subprocess, threading
def start():
    child = subprocess.Popen(["sleep", "1000"])
    print(child.pid, flush=True)
    child.wait()
threading.Thread(target=start).start()
"""


@pytest.mark.parametrize(
    "argv",
    [["sh", "-c", "sleep 1000 & echo $!; wait"], [sys.executable, "-c", BY_A_THREAD]],
    ids=["of one thread", "of a second thread"],
)
def test_children_of_every_thread_are_members(argv: list[str]) -> None:
    orphans = Orphans()
    try:
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as main:
            assert main.stdout is not None
            child = main.stdout.readline().strip()
            tree = ProcessTree(b"token", main.pid, main.pid)
            # The main process is a child of the first thread here, where an agent never is.
            orphans.spared.add(main.pid)
            table = DescentTable(orphans)
            assert table.scan({tree.token: tree}, [tree])
            assert set(tree.members) == {child}
            subprocess.run(["kill", "-KILL", child, str(main.pid)], check=True)
    finally:
        orphans.close()
        set_subreaper(enabled=False)
