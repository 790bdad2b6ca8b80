"""Command line entry points of the server."""
