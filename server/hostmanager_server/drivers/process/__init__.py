"""The driver of native processes."""
