"""A small published world: items of two kinds, users between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from schemas import ItemVector, Tensor, UserEvent, UserVector

SPACE = "0123456789abcdef"


def tensor(*values: float) -> Tensor:
    vector = np.array(values, np.float32)
    return Tensor.from_numpy(vector / np.linalg.norm(vector), "f4")


def item_vector(item_id: str, *values: float, **fields: Any) -> ItemVector:
    defaults = {
        "revision": 1, "event_time_ms": 1_000, "space_id": SPACE, "modalities": ("text",), "produced_at_ms": 2_000,
        "vector": tensor(*values),
    }  # fmt: skip
    return ItemVector(item_id=item_id, **{**defaults, **fields})


def user_vector(user_id: str, *values: float, **fields: Any) -> UserVector:
    defaults = {
        "event_time_ms": 5_000, "num_events": 3, "space_id": SPACE, "produced_at_ms": 6_000, "vector": tensor(*values),
    }  # fmt: skip
    return UserVector(user_id=user_id, **{**defaults, **fields})


def event(user_id: str, item_id: str, at_ms: int, kind: str = "like") -> UserEvent:
    return UserEvent(
        event_id=f"{user_id}/{item_id}/{at_ms}", user_id=user_id, item_id=item_id, event_type=kind, event_time_ms=at_ms
    )


def world() -> tuple[Sequence[ItemVector], Sequence[UserVector], Sequence[UserEvent]]:
    """Right and up are two kinds of items; the text of an item and its image may say different things."""
    right, up = tensor(1, 0), tensor(0, 1)
    items = [
        item_vector("right", 1, 0, modalities=("image", "text"), modality_vectors={"text": right, "image": right}),
        item_vector("rightish", 3, 1, modalities=("image", "text"), modality_vectors={"text": right, "image": up}),
        item_vector("up", 0, 1, modalities=("image", "text"), modality_vectors={"text": up, "image": up}),
        item_vector("upish", 1, 3, prior=0.9, modalities=("behavior", "text"), modality_vectors={"text": up}),
    ]
    users = [user_vector("ada", 1, 0.1), user_vector("bob", 0, 1)]
    events = [event("ada", "right", 1), event("ada", "up", 3, "dislike"), event("bob", "up", 2)]
    return items, users, events
