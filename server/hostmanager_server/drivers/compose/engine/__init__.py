"""The Docker Engine: connections, events and containers."""
