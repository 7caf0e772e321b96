"""JSON, and JSON behind the header that serializers of a schema registry write. Its schema is not asked for: the
mapping says what is needed of a record."""

from __future__ import annotations

import codecs
from typing import Any

import orjson

from schemas import Reason
from worker.mapping.formats.framing import unframed
from worker.mapping.problem import MisfitError


def parse_json(data: bytes) -> Any:
    """Raises `MisfitError`."""
    try:
        return orjson.loads(data)
    except ValueError as error:
        if data.startswith(codecs.BOM_UTF8):
            return parse_json(data[len(codecs.BOM_UTF8) :])
        raise MisfitError(f"is not JSON: {str(error).splitlines()[0]}", Reason.WRONG_FORMAT) from None


def parse_framed_json(data: bytes) -> Any:
    """Raises `MisfitError`."""
    return parse_json(unframed(data)[1])
