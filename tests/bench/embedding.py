"""This project's codec and model as a library, for loops that others would write around them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from schemas import decode_item, encode_item_vector
from tests.bench.parts import runtime_of
from tests.bench.workload import MODALITIES, VECTOR_DIM
from worker.settings import Settings


def embedding(settings: Settings, read: Callable[[Any], tuple[Any, Any]]) -> Callable[[Sequence[Any]], list[bytes]]:
    """Records to encoded vectors. `read` takes value and offset out of a record."""
    runtime = runtime_of(settings)
    space_id = runtime.space.space_id

    def outputs(records: Sequence[Any]) -> list[bytes]:
        values, offsets = zip(*map(read, records), strict=True)
        items = [decode_item(value) for value in values]
        rows = runtime.embed([item.features for item in items]).rows(settings.publish.vector_dtype)
        now_ms = time.time_ns() // 1_000_000
        return [
            encoded_vector(space_id, item.item_id, item.event_time_ms, row, now_ms, offset)
            for item, row, offset in zip(items, rows, offsets, strict=True)
        ]

    return outputs


def encoded_vector(space_id: str, item_id: str, event_time_ms: int, row: bytes, now_ms: int, offset: int) -> bytes:
    return encode_item_vector(item_id, 1, event_time_ms, space_id, "f2", (VECTOR_DIM,), row, MODALITIES, now_ms, offset)
