"""Micro-batches of users: who has no vector, and who has one that is not finite."""

import numpy as np
import torch

from worker.align.history import Event
from worker.align.padding import rising_sizes
from worker.align.spec import DecayedSum
from worker.align.users import UserModel
from worker.item_vectors.table import ItemTable, ItemUpdate
from worker.records import Recompute, RecomputeTrigger
from worker.roles.user_pool import UserPool
from worker.stages.fuse import NO_VECTOR, Vector, isolate
from worker.state.users import UserState

SPEC = DecayedSum(half_life_ms=1_000.0, event_weights={"like": 1.0})


def user(name: str, *items: str) -> Recompute:
    events = [Event(number, f"{name}-{number}", item, "like") for number, item in enumerate(items)]
    return Recompute(RecomputeTrigger("events", 0, 0, name.encode()), name, UserState(0, events))


def test_a_user_whose_vector_is_not_finite_is_bad_and_not_taken_for_one_without_items() -> None:
    table = ItemTable(2, "float32", "cpu")
    table.apply([ItemUpdate("good", 0, np.array([1, 0], "f4")), ItemUpdate("broken", 1, np.array([np.nan, 0], "f4"))])
    pool = UserPool(UserModel(SPEC, 2).eval(), table, SPEC.event_weights, SPEC.last, rising_sizes(8), "f4", "cpu")
    with torch.inference_mode():
        results = isolate([user("a", "good"), user("b", "broken"), user("c", "unknown")], pool, lambda: None)
    assert isinstance(results[0], Vector)
    assert results[1:] == [None, NO_VECTOR]


def test_a_history_counts_event_by_event_whatever_others_are_beside_it() -> None:
    """The arrays of a batch are filled at once: each user must find its own events in them."""
    table = ItemTable(2, "float32", "cpu")
    table.apply([ItemUpdate(f"item-{n}", n, np.array([n + 1, 1], "f4")) for n in range(6)])
    weights = {"like": 1.0, "dislike": -0.5}
    spec = DecayedSum(half_life_ms=1_000.0, event_weights=weights)
    pool = UserPool(UserModel(spec, 2).eval(), table, weights, spec.last, rising_sizes(8), "f4", "cpu")
    types = ["like", "dislike", "no longer used", "like"]
    users = [
        Recompute(RecomputeTrigger("events", 0, 0, b"u"), "u", UserState(0, [
            Event(at, f"e{at}", f"item-{(number + at) % 7}", types[at]) for at in range(count)
        ]))
        for number, count in enumerate([0, 4, 1, 0, 3, 2])
    ]  # fmt: skip
    alone = [pool.vectors([each])[0] for each in users]
    for together, single in zip(pool.vectors(users), alone, strict=True):
        assert type(together) is type(single)
        if isinstance(together, Vector) and isinstance(single, Vector):
            assert together.num_events == single.num_events
            np.testing.assert_allclose(
                np.frombuffer(together.data, "<f4"), np.frombuffer(single.data, "<f4"), atol=1e-6
            )
    assert [each.num_events for each in alone if isinstance(each, Vector)] == [3, 1, 2, 1]
