"""The demo: a daemon with a small lab in a temporary directory."""

from hostmanager_client.demo.cli import demo_command

__all__ = ["demo_command"]
