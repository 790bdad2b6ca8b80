"""Wrappers of the kernel and systemd, and checks of file owners and modes."""
