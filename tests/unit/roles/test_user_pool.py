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
