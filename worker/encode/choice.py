"""One entry of the setting `encode.encoders`."""

from __future__ import annotations

from typing import NamedTuple


class ModelChoice(NamedTuple):
    """A model, and how it is used."""

    model: str
    document_prompt: str | None = None
    """Put before the texts of items, instead of what the model's directory says."""
    query_prompt: str | None = None
    for_queries: bool = False
    """Texts are those of questions."""
