"""Runtime records: how the next daemon finds the runs of this one."""
