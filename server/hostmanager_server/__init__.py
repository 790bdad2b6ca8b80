"""The HostManager daemon."""
