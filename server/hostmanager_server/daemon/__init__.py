"""The daemon: construction, start and stop of its parts."""
