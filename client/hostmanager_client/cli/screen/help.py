"""The help of the screen; its lines fit 80 columns."""

HELP = """\
Keys of the table
  Up, Down, k, j       select the row above or below
  PgUp, PgDn           a page up or down
  Home, End, g, G      the first or the last row
  Enter                show all properties of the selected instance
  w                    why it is not as wanted, and what to try
  l                    its output, followed
  e                    its events, followed
  u, d, r              set its target to up or down, or restart it;
                       each asks first
  /                    filter by words of id, class, state, group and reason,
                       such as `failing`; Enter keeps the filter, Esc clears it
  s                    the next order: trouble first, name, class,
                       newest change, restarts, recent failures
  S                    the order backwards
  q, Ctrl-C            quit

Keys of a page
  Up, Down, PgUp, PgDn, Home, End   scroll; output is followed again after End
  Left, Right                       move sideways along long lines
  /                                 show only lines with this text
  q, Esc                            back to the table

The first line counts all instances by group; instances in trouble stand on
top. Without contact to the daemon, a red line tells for how long and how old
the rows are, and the screen connects again by itself.

`hostmanager watch --lines`, `--json`, and a pipe print lines instead.
"""
