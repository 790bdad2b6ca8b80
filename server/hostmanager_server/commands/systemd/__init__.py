"""`hostmanager systemd`: the unit that runs the daemon."""
