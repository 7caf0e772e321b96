"""How large a message, and each part of it, may be.

The contract's limits are the defaults of `Limits`. They bind writers too: what is over one of them cannot be
built or encoded. A reader may be stricter by handing its own `Limits` to `decode`; it cannot be laxer.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema

CROWDED_BYTES = 64 * 1024
"""Maps and arrays are counted in messages larger than this, see `Limits.containers`."""

UTF8_BYTES = 4
"""Most bytes of one character in UTF-8."""


@dataclass(frozen=True)
class Limits:
    """Bounds on the messages that a reader accepts. Each lies between 1 and the contract's, which is the default."""

    message_bytes: int = 16 * 2**20
    """Bytes of one encoded message, dead letters excepted."""
    dead_letter_bytes: int = 64 * 2**20
    """Bytes of one encoded dead letter, which holds a whole record."""
    map_keys: int = 64
    """Entries of any map, unknown fields included."""
    array_items: int = 1_024
    """Elements of any array, unknown fields included."""
    containers: int = 2_048
    """Maps and arrays in a message of more than 64 KiB, unknown fields included."""
    id_chars: int = 512
    """Characters (Unicode code points) of an item, user or event id, and of a topic name."""
    name_chars: int = 128
    """Characters of a modality, encoder, event type, space id, media type, reason, stage or version."""
    text_chars: int = 262_144
    """Characters of raw text and of a header name. No str, in unknown fields either, has more than four times as
    many bytes."""
    uri_chars: int = 4_096
    """Characters of a URI."""
    detail_chars: int = 2_048
    """Characters of a dead letter's detail; the writer cuts it."""
    modalities: int = 32
    """Modalities in one map or list."""
    neighbors: int = 256
    """Neighbours of an item."""
    attributes: int = 64
    """Attributes of an item."""
    attribute_chars: int = 1_024
    """Characters of an attribute that is a str, and of each str in one that is an array."""
    attribute_values: int = 64
    """Entries of an attribute that is an array."""
    code_levels: int = 16
    """Codes of a vector."""
    headers: int = 1_024
    """Headers kept in a dead letter; the writer drops the rest."""
    dims: int = 16_384
    """Dimensions of a vector."""
    vectors: int = 1_024
    """Vectors in one tensor (frames, patches, sentences)."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 1 <= value <= field.default:
                raise ValueError(f"limits.{field.name} must be between 1 and {field.default}, not {value}")


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class AtMost:
    """Marks a type as bounded by a limit: the characters of a str, the entries of a dict or tuple."""

    limit: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: Any = handler(source)
        return {**schema, "max_length": getattr(DEFAULT_LIMITS, self.limit)}
