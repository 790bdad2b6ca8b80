"""Numbers of bytes in words."""

from __future__ import annotations


def size_words(count: int) -> str:
    """Return a number of bytes in words: `900 KiB`, `1.5 GiB`; three digits."""
    value, units = float(count), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.3g} {units[0]}"
