"""Output of native agents: files, rotation, archives and readers."""
