"""`hostmanager demo`: a real daemon with a small lab to play with, which leaves nothing behind."""

from hostmanager_client.demo.cli import demo_command

__all__ = ["demo_command"]
