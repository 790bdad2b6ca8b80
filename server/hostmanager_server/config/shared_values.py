"""Equal values of the site config, kept in memory once."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from typing import Any, TypeVar

Value = TypeVar("Value", bound=Hashable)


def shared(value: Value) -> Value:
    """Return the first of equal values: thousands of instances have the same class and policies."""
    first: Value = _first(value)
    return first


@lru_cache(maxsize=1024, typed=True)
def _first(value: Any) -> Any:
    return value
