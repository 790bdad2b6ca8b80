"""Calls of the compose program."""
