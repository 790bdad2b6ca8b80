"""A daemon that is wrong on purpose: it starts an agent first, and writes down that it did so after.

That is what most supervisors do. The referee is to find it out with no special help; see docs/robustness.md.
"""

from __future__ import annotations

import os
import sys

from hostmanager_server import app
from hostmanager_server.core.events import RunKey
from hostmanager_server.core.spec import InstanceSpec, ProcessSpec
from hostmanager_server.drivers.gate import Gate
from hostmanager_server.drivers.process import ProcessDriver, _Run
from hostmanager_server.drivers.records import Draft
from hostmanager_server.drivers.tree import Tree
from hostmanager_server.main import serve_command


class NaiveDriver(ProcessDriver):
    """Lets the child become the agent at once, and records it then."""

    def _pass_gate(
        self, run: RunKey, tree: Tree, spec: InstanceSpec, process: ProcessSpec, draft: Draft, child: Gate
    ) -> _Run:
        child.release()
        open_gate = Gate(child.pid, os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC))
        try:
            return super()._pass_gate(run, tree, spec, process, draft, open_gate)
        finally:
            os.close(open_gate.descriptor)


if __name__ == "__main__":
    setattr(app, "ProcessDriver", NaiveDriver)  # noqa: B010 - the composition root exports it to nobody
    serve_command(sys.argv[2:])  # after the word `serve`
