"""Users who each like one of six topics, and items whose text and image tell the topic."""

from __future__ import annotations

import numpy as np

from worker.data import Dataset, Features, Interactions, Split, split_by_time

NUM_TOPICS, NUM_ITEMS, NUM_USERS = 6, 60, 40
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
    times_ms = np.arange(len(rows)) * 3_600_000
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
