"""Completion in bash of words with `=` and `:`, at which bash splits a word.

Bash splits the line at the characters of COMP_WORDBREAKS, which by default include `=` and `:`, and replaces
only the last part by a completion. The script therefore passes the whole line, and `format_completion`
leaves out what stands before the last break.
"""

from __future__ import annotations

import os

from click.shell_completion import BashComplete, CompletionItem, add_completion_class, split_arg_string

_LINE, _BREAKS = "HOSTMANAGER_COMP_LINE", "HOSTMANAGER_COMP_WORDBREAKS"
_SOURCE = f"""\
%(complete_func)s() {{
    local IFS=$'\\n' response completion type value
    response=$(env {_LINE}="${{COMP_LINE:0:COMP_POINT}}" {_BREAKS}="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1")
    for completion in $response; do
        IFS=',' read -r type value <<< "$completion"
        if [[ $type == 'dir' ]]; then
            COMPREPLY=()
            compopt -o dirnames
        elif [[ $type == 'file' ]]; then
            COMPREPLY=()
            compopt -o default
        elif [[ $type == 'plain' ]]; then
            COMPREPLY+=("$value")
        fi
    done
    [[ ${{#COMPREPLY[@]}} -eq 1 && ${{COMPREPLY[0]}} == *[=:] ]] && compopt -o nospace
    return 0
}}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class WordBreakComplete(BashComplete):
    """The completion of click for bash, which takes the whole line."""

    source_template = _SOURCE
    _before = ""  # of the incomplete word, what bash keeps
    _option = ""  # `--name=` if the incomplete word is the value of an option

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the complete words and the incomplete word, for which bash asks."""
        line = os.environ.get(_LINE)
        if line is None:  # a script of an older version
            return super().get_completion_args()
        words = split_arg_string(line)
        incomplete = words.pop() if words and not line[-1:].isspace() else ""
        breaks = os.environ.get(_BREAKS, "").replace(" ", "")
        last = max((incomplete.rfind(character) for character in breaks), default=-1)
        self._before = incomplete[: last + 1]
        if incomplete.startswith("--") and "=" in incomplete:
            self._option = incomplete.partition("=")[0] + "="
        return _separated(words[1:]), incomplete

    def format_completion(self, item: CompletionItem) -> str:
        """Return the type, and the part of the value that follows what bash keeps."""
        value = f"{self._option}{item.value}"  # click leaves the name of the option out
        if not value.startswith(self._before):
            return f"{item.type},{item.value}"
        return f"{item.type},{value.removeprefix(self._before)}"


def _separated(words: list[str]) -> list[str]:
    """Return the words with `--name=value` as two words, since click looks for the option by its name."""
    separated: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        separated += [name, value] if equals and name.startswith("--") else [word]
    return separated


add_completion_class(WordBreakComplete, "bash")
