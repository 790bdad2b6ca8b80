"""What systemd needs to run the daemon."""
