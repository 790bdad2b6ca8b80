"""The pure core: values, and functions that decide. No IO, clock, thread or log."""
