"""Messages and datasets in few words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from schemas import Feature, NewItem, UserEvent
from worker.data import Interactions


def item(item_id: str, revision: int = 1, time_ms: int = 0, **fields: Any) -> NewItem:
    """An item; `text=[…]` is its feature of that modality, by encoder `text-encoder`."""
    features = {
        name: Feature.from_numpy(fields.pop(name), dtype="f4", encoder=f"{name}-encoder")
        for name in ("text", "image")
        if name in fields
    }
    return NewItem(item_id=item_id, revision=revision, event_time_ms=time_ms, features=features, **fields)


def event(event_id: str, user_id: str, item_id: str, time_ms: int = 0, event_type: str = "like") -> UserEvent:
    return UserEvent(event_id=event_id, user_id=user_id, item_id=item_id, event_type=event_type, event_time_ms=time_ms)


def interactions(rows: Sequence[tuple[int, int, int, float]]) -> Interactions:
    """From (user, item, time, weight), which must be in order of time."""
    users, items, times, weights = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Interactions(
        np.array(users, np.int64), np.array(items, np.int64), np.array(times, np.int64), np.array(weights, np.float32)
    )


def rows_of(events: Interactions) -> list[tuple[int, int, int, float]]:
    """What `interactions` takes."""
    columns = (events.users_E, events.items_E, events.times_ms_E, events.weights_E)
    return list(zip(*(column.tolist() for column in columns), strict=True))


WEIGHTS: Mapping[str, float] = {"like": 1.0, "dislike": -0.5, "view": 0.0}
