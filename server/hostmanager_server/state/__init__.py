"""The state of the daemon: published for readers, and stored on disk."""
