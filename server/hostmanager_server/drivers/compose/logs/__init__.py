"""The output of compose services."""
