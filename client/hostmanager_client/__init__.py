"""The typed client of HostManager, and its command line."""
