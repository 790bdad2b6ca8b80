"""The contents of the journal, as the next daemon reads them."""

from __future__ import annotations

from collections.abc import Mapping

from hostmanager.values import dataclass, field

from hostmanager_server.core.history import History
from hostmanager_server.core.manager_status import ManagerState
from hostmanager_server.core.model import Hold
from hostmanager_server.core.origin import RequestOrigins
from hostmanager_server.core.spec import Target
from hostmanager_server.state.hold_rows import read_holds
from hostmanager_server.state.rows import Rows, decode_history, decode_origins
from hostmanager_server.state.schema import Table


@dataclass(frozen=True, slots=True)
class JournalContents:
    """The state that the previous daemon stored.

    `ended` is True when that daemon was asked to end, False when it died. `boot_id` names the boot in which
    that daemon ran. `lost` is empty, or says why the journal set the file aside and its content is unknown.
    """

    manager: ManagerState = ManagerState.STOPPED
    ended: bool = True
    boot_id: str = ""
    targets: Mapping[str, Target] = field(default_factory=dict)
    histories: Mapping[str, History] = field(default_factory=dict)
    origins: Mapping[str, RequestOrigins] = field(default_factory=dict)  # of the targets
    holds: Mapping[str, Hold] = field(default_factory=dict)
    new: bool = True  # the file never held anything
    lost: str = ""


def contents_of(rows: Rows) -> JournalContents:
    """Return the contents that the rows of a journal stand for; raises ValueError for unknown values."""
    meta = rows.of[Table.META]
    return JournalContents(
        manager=ManagerState(meta.get("manager", ManagerState.STOPPED.value)),
        ended=meta.get("ended", "yes") == "yes",
        boot_id=meta.get("boot_id") or "",
        targets={i: Target(target) for i, target in rows.of[Table.TARGETS].items()},
        histories={i: decode_history(record or "") for i, record in rows.of[Table.HISTORY].items()},
        origins=decode_origins(rows),
        holds=read_holds(meta),
        new=not meta,
    )
