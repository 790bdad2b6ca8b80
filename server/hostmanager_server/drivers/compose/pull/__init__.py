"""Image pulls."""
