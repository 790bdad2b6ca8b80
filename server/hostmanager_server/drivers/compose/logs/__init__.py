"""Output of compose services."""
