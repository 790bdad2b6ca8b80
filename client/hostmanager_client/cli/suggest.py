"""Suggestions for mistyped words, the most likely first."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LEAST = 0.6  # similarity, as in difflib.get_close_matches
_MARGIN = 0.15  # words that are this much less similar than the best one are no suggestions


def close_words(word: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Return the known words that `word` may stand for: at most `most`, the most likely first.

    Words of another case come first, then those that begin with the word, then similar ones. Equally likely
    words keep the order in which people count: data2 before data10.
    """
    from difflib import SequenceMatcher

    folded = word.casefold()
    matcher = SequenceMatcher(b=folded)
    scores: dict[str, float] = {}
    for candidate in known:
        other = candidate.casefold()
        matcher.set_seq1(other)
        if other == folded:
            scores[candidate] = 2.0
        elif folded and other.startswith(folded):
            scores[candidate] = 1.0
        elif matcher.real_quick_ratio() >= _LEAST and matcher.quick_ratio() >= _LEAST:
            ratio = matcher.ratio()
            if ratio >= _LEAST:
                scores[candidate] = ratio
    best = max(scores.values(), default=0.0)
    likely = [candidate for candidate, score in scores.items() if score >= min(best, 1.0) - _MARGIN]
    return sorted(likely, key=lambda candidate: (-scores[candidate], natural_key(candidate)))[:most]


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts numbers within texts by value."""
    return [
        (0, int(part), "") if part.isdecimal() and part.isascii() else (1, 0, part)
        for part in re.split(r"([0-9]{1,18})", text.casefold())
        if part
    ]
