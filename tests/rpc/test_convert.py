"""Messages made from values of the core."""

from __future__ import annotations

from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_server.core.events import ExitStatus, Instant
from hostmanager_server.core.model import Exit, new_instance
from hostmanager_server.core.plan import retire
from hostmanager_server.core.spec import InstanceSpec
from hostmanager_server.rpc import convert
from hostmanager_server.rpc.convert_instance import InstanceConverter
from hostmanager_server.state.store import Tracked


def test_an_end_tells_limit_core_dump_and_last_output_apart_from_its_message() -> None:
    status = ExitStatus(signal=24, core_dumped=True, limit="cpu")
    ended = Exit(status, Instant(1.0, 2.0), False, "ended", last_output="one\ntwo")
    message = convert.exit_(ended)
    assert (message.signal, message.limit, message.core_dumped) == ("SIGXCPU", "cpu", True)
    assert (message.last_output, message.message) == ("one\ntwo", "ended")


def test_an_instance_has_its_place_in_the_site_config_until_retired() -> None:
    spec = InstanceSpec("a", "Agent", problem="no command", position=3)
    tracked = Tracked(new_instance(spec), 1)
    converter = InstanceConverter(lambda spec: "")
    now = Instant(1.0, 2.0)
    assert pb.ManagedInstance.FromString(converter(tracked, now)).position == 3
    retired = Tracked(retire(tracked.instance), 2)
    assert pb.ManagedInstance.FromString(converter(retired, now)).position == 0
