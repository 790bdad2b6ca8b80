"""The daemon: construction of its parts, and the order in which they start and stop."""
