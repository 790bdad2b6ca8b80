"""Wrappers of the kernel and of systemd, without policy."""
