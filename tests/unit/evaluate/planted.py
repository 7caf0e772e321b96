"""Users who each like one of six topics, and items whose text and image tell the topic."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from schemas import Feature, NewItem, UserEvent
from worker.data import Dataset, Features, Interactions, Split, split_by_time
from worker.data.files import write_events, write_items
from worker.data.lists import write_item_list

NUM_TOPICS, NUM_ITEMS, NUM_USERS = 6, 60, 40
FIRST_MS = 1_700_000_000_000
COLD_VAL = np.arange(NUM_ITEMS) % 10 == 8
COLD_TEST = np.arange(NUM_ITEMS) % 10 == 9


def dataset_of(events: Interactions, features: dict[str, Features], num_items: int) -> Dataset:
    num_users = int(events.users_E.max()) + 1
    return Dataset(
        [f"item-{number}" for number in range(num_items)],
        [f"user-{number}" for number in range(num_users)],
        features,
        events,
        [()] * num_items,
        "planted",
    )


def planted(seed: int = 0) -> tuple[Dataset, Split]:
    """Item i is of topic i // 10; of each ten items the last two are withheld. Every fifth item has no image."""
    random = np.random.default_rng(seed)
    topic_I, topic_U = np.arange(NUM_ITEMS) // 10, np.arange(NUM_USERS) % NUM_TOPICS
    rows = [
        (user, int(item))
        for user in range(NUM_USERS)
        for item in random.permutation(np.flatnonzero(topic_I == topic_U[user]))[:8]
    ]
    order = random.permutation(len(rows))
    users, items = np.array(rows)[order].T
    times_ms = FIRST_MS + np.arange(len(rows)) * 3_600_000
    events = Interactions(users, items, times_ms, np.ones(len(rows), np.float32))
    features = {
        "image": _features(random, topic_I, 0.6, np.arange(NUM_ITEMS) % 5 != 0, dim=8),
        "text": _features(random, topic_I, 0.3, np.ones(NUM_ITEMS, bool), dim=12),
    }
    data = dataset_of(events, features, NUM_ITEMS)
    return data, split_by_time(events, COLD_VAL, COLD_TEST)


def _features(
    random: np.random.Generator, topic_I: np.ndarray, noise: float, present_I: np.ndarray, dim: int
) -> Features:
    vectors_IK = random.standard_normal((NUM_TOPICS, dim))[topic_I] + noise * random.standard_normal((NUM_ITEMS, dim))
    starts = np.concatenate([[0], np.cumsum(present_I)])
    return Features(f"encoder-{dim}", vectors_IK[present_I].astype(np.float32), starts)


def write_planted(folder: Path) -> None:
    """The planted data as files: items.msgpack, events.msgpack.gz, val.txt and test.txt."""
    data, _ = planted()
    items = [
        NewItem(
            item_id=item_id,
            revision=1,
            event_time_ms=0,
            features={
                name: Feature.from_numpy(each.vectors_NK[each.starts[number]], "f4", encoder=each.encoder)
                for name, each in data.features.items()
                if each.present_I[number]
            },
        )
        for number, item_id in enumerate(data.item_ids)
    ]
    rows = zip(data.events.users_E.tolist(), data.events.items_E.tolist(), data.events.times_ms_E.tolist(), strict=True)
    events = [
        UserEvent(
            event_id=f"event-{number}",
            user_id=data.user_ids[user],
            item_id=data.item_ids[item],
            event_type="like",
            event_time_ms=time_ms,
        )
        for number, (user, item, time_ms) in enumerate(rows)
    ]
    write_items(folder / "items.msgpack", items)
    write_events(folder / "events.msgpack.gz", events)
    for name, cold_I in (("val", COLD_VAL), ("test", COLD_TEST)):
        write_item_list(folder / f"{name}.txt", [data.item_ids[item] for item in cold_I.nonzero()[0]])
