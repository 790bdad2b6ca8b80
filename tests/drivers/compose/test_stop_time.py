"""Test of a long stop, on a real engine."""

from __future__ import annotations

import json
import signal

from hostmanager_server.core.events import Gone, RunKey, Started, StopFailed

from tests.docker_engine import MakeProject
from tests.drivers.compose_harness import ComposeHarness
from tests.drivers.conftest import EpollPoller


def test_a_container_gets_its_own_time_to_stop(compose_project: MakeProject, image: str) -> None:
    """The container ignores SIGTERM; compose may be silent for 0.7 s besides the grace period."""
    service = {"image": image, "network_mode": "none", "command": ["sleep", "1000"]}
    project = compose_project(json.dumps({"services": {"a": {**service, "stop_grace_period": "2s"}}}))
    poller = EpollPoller()
    harness = ComposeHarness(poller, project, image, progress_timeout=0.7)
    try:
        spec = harness.follow("a")
        run = RunKey("a", 1)
        harness.driver.launch(run, spec)
        harness.wait_for(lambda: any(isinstance(event, Started) for event in harness.events))
        project.write(json.dumps({"services": {"a": {**service, "stop_grace_period": "1s"}}}))
        harness.follow("a")  # the container keeps the time with which it was made
        harness.driver.stop(run, signal.SIGTERM, whole_tree=True)
        harness.wait_for(lambda: any(isinstance(event, Gone) for event in harness.events))
        assert not any(isinstance(event, StopFailed) for event in harness.events)
    finally:
        harness.close()
        poller.close()
