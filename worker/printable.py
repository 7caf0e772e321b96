"""Text of strangers, made fit for a terminal and for one line of a log."""

from __future__ import annotations

import json

_JOINERS = "\u200c\u200d"  # scripts and emoji are spelt with them, and they move nothing
_MAX_CHARS = 200


def printable(text: str) -> str:
    """The same text with everything that drives a terminal, ends a line or turns the direction of writing escaped.

    Those are control characters, line and paragraph separators, the invisible format characters (bidirectional
    overrides among them), lone surrogates, and what has no character. They are written as JSON writes them, so JSON
    stays the same JSON. What is printable stays as it is, in any script.
    """
    if text.isprintable():
        return text
    return "".join(each if _is_harmless(each) else json.dumps(each)[1:-1] for each in text)


def shortened(text: str, limit: int = _MAX_CHARS) -> str:
    """`printable`, cut off with a word about the rest."""
    rest = len(text) - limit
    return printable(text) if rest <= 0 else f"{printable(text[:limit])}… ({rest} more characters)"


def _is_harmless(character: str) -> bool:
    is_wide_space = character >= "\xa0" and character.isspace() and character not in "\u2028\u2029"
    return character.isprintable() or is_wide_space or character in _JOINERS
