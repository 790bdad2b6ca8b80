#!/usr/bin/env bash
# urwid draws nothing on a terminal whose size is unknown, although COLUMNS and LINES name one.
#
# Seen on Linux with Python 3.11 and urwid 5.1.0, TERM=xterm: on a terminal of 0 columns and 0 lines (a serial line, a
# pseudo-terminal that nobody has sized) the screen stays empty without an error. With TERM=vt100 the same program
# shows 80 by 24. On a terminal with a size both show the text.
#
# The script installs the pinned packages into a temporary folder, runs a small program on pseudo-terminals, prints
# what each shows, and fails if that changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/show.py" <<'PY'
import urwid

loop = urwid.MainLoop(urwid.Filler(urwid.Text("a line of text")))
loop.set_alarm_in(0.5, lambda *_: (_ for _ in ()).throw(urwid.ExitMainLoop()))
loop.run()
PY

cat >"$folder/try.py" <<'PY'
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

term, columns, lines = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
controller, terminal = pty.openpty()
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
environment = {**os.environ, "TERM": term, "COLUMNS": "80", "LINES": "24"}
process = subprocess.Popen([sys.executable, sys.argv[1]], stdin=terminal, stdout=terminal, env=environment)
os.close(terminal)
shown = b""
try:
    while piece := os.read(controller, 65536):
        shown += piece
except OSError:  # the program has ended
    pass
assert process.wait() == 0
print("the text" if b"a line of text" in shown else "nothing")
PY

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q urwid==5.1.0 wcwidth==0.9.4

failed=0
expect() {
    local expected=$1 term=$2 columns=$3 lines=$4 seen
    seen=$("$folder/venv/bin/python" "$folder/try.py" "$folder/show.py" "$term" "$columns" "$lines")
    echo "urwid 5.1.0, TERM=$term, $columns columns, $lines lines: $seen (expected: $expected)"
    [ "$seen" = "$expected" ] || failed=1
}
expect nothing xterm 0 0
expect "the text" vt100 0 0
expect "the text" xterm 80 24
exit "$failed"
