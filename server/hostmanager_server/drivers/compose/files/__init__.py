"""Compose files: projects, their inputs and changes."""
