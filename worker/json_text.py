"""JSON that somebody else wrote, read so that whatever is wrong with it is one kind of error."""

from __future__ import annotations

import json
from typing import Any


def read_json(text: str | bytes) -> Any:
    """The value. Raises `ValueError` for what is no JSON, and for what is nested too deeply, for which the parser has
    another error."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
