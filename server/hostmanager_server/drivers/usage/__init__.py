"""Measurement of the CPU, memory, tasks and descriptors that runs use."""
