"""State diagram in docs/reference/states.md, from the core's transitions.

Run the script after a change of TRANSITIONS. With --check, the script writes nothing and exits with 1 when
the page is out of date.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hostmanager_server.core.model import State
from hostmanager_server.core.transitions import TRANSITIONS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "states.md"
BEGIN = "<!-- drawn by scripts/draw_states.py: begin -->"
END = "<!-- drawn by scripts/draw_states.py: end -->"


def diagram() -> str:
    """Return the state machine as a fenced mermaid state diagram."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {_name(State.DOWN)}"]
    lines += [f'    state "?" as {_name(State.UNKNOWN)}']
    for state, followers in TRANSITIONS.items():
        lines += [f"    {_name(state)} --> {_name(to)}: {reason}" for to, reason in followers.items()]
    lines += [f"    {_name(State.DOWN)} --> [*]: retired", "```"]
    return "\n".join(lines)


def _name(state: State) -> str:
    return "not_operable" if state is State.UNKNOWN else state.value


def with_diagram(page: str) -> str:
    """Return the page with the present diagram. Raises ValueError without markers."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(
            f"cannot draw the diagram into {PAGE}: the page needs the lines {BEGIN!r} and {END!r}"
        )
    return f"{before}{BEGIN}\n\n{diagram()}\n\n{END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only report whether the page is up to date")
    check = parser.parse_args().check
    page = PAGE.read_text(encoding="utf-8")
    wanted = with_diagram(page)
    if page == wanted:
        return 0
    if check:
        print(
            f"{PAGE.name} does not show the present state machine; run scripts/draw_states.py",
            file=sys.stderr,
        )
        return 1
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
