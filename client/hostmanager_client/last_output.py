"""The last line that an instance wrote before an end, for texts about the end."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hostmanager.v1 import host_manager_pb2 as pb

LONGEST = 200  # characters in the reason of a failed wait
_START = "start failed: "
_NO_RUN = _START + "cannot start"  # no process ran, so the output is of an earlier run


def last_line(ended: pb.Exit, longest: int = LONGEST) -> str:
    """Return the last line of output before an end, cut to a length; empty if there was none."""
    line = ended.last_output.rpartition("\n")[2]
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def explains(instance: pb.ManagedInstance) -> bool:
    """Return whether the last output may explain why the instance is not up.

    An end on request explains nothing, unless the daemon stopped a run that never became ready.
    """
    if not instance.last_exit.last_output or instance.message.startswith(_NO_RUN):
        return False
    if instance.reason == "Finished":
        return False
    return not instance.last_exit.expected or instance.message.startswith(_START)


def with_last_line(instance: pb.ManagedInstance) -> str:
    """Return the message of an instance that failed to come up, with the last line of its last run."""
    failing = instance.consecutive_failures or instance.reason == "Failed"
    if not failing or not explains(instance):
        return instance.message
    return f'{instance.message}; last output: "{last_line(instance.last_exit)}"'
