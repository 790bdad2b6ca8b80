"""Drivers: what carries out the core's actions, and reports what came of them."""
