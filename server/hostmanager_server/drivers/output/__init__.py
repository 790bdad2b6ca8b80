"""The output of native agents: files, rotation, archives and readers."""
