"""The screen of `hostmanager watch` on a terminal; only `watch` imports this package, and urwid with it."""
