"""What was published before is compared with what is made now."""

from collections.abc import Sequence

import numpy as np

from schemas import Feature
from worker.align.history import Event
from worker.item_vectors.table import ItemTable, ItemUpdate
from worker.records import Change, Item, Recompute, RecomputeTrigger, User
from worker.roles.watched import ONE_IN, WatchedItems, WatchedUsers
from worker.stages.fuse import NO_VECTOR, Result, Vector
from worker.state.items import ItemState, ModalityState
from worker.state.users import UserState
from worker.vector_health import VectorWatch
from worker.vector_health.watch import BLOCK

DIM = 4
TRIGGER = RecomputeTrigger("items", 0, 0, b"")
CHOSEN = next(name for name in map(str, range(10_000)) if hash(name) % ONE_IN == 0)


class Model:
    """Gives what it is told to."""

    def __init__(self) -> None:
        self.results: list[Result] = []

    def vectors(self, entries: Sequence[Change]) -> list[Result]:
        return self.results

    def padded_size(self, num_entries: int) -> int:
        return num_entries

    def probe(self) -> None: ...


def packed(*elements: float) -> bytes:
    row = np.array(elements, np.float64)
    return (row / np.linalg.norm(row)).astype("<f2").tobytes()


def item(value: float) -> Item:
    feature = Feature.from_numpy([value, 1.0], "f4", encoder="e")
    return Item(TRIGGER, CHOSEN, 1, 0, {"text": feature}, state=ItemState(0, 1, 1, 0, {}))


def jumps(watch: VectorWatch) -> list[float]:
    return [round(jump, 2) for jump in watch._jumps]


def test_a_vector_that_turns_though_its_features_came_again_unchanged_is_noted() -> None:
    watch, model = VectorWatch(None, DIM), Model()
    watched = WatchedItems(model, watch, "f2")
    for features, elements in ((1.0, (1, 0, 0, 0)), (1.0, (1, 0, 0, 0)), (2.0, (0, 1, 0, 0)), (2.0, (0, 0, 1, 0))):
        model.results = [Vector(packed(*elements), ("text",))]
        assert watched.vectors([item(features)]) == model.results
    assert jumps(watch) == [0.0, 1.0]  # other features make other vectors, and that is no jump


def test_a_vector_that_its_neighbours_have_moved_has_not_turned() -> None:
    watch, model = VectorWatch(None, DIM), Model()
    watched = WatchedItems(model, watch, "f2")
    state = ItemState(0, 1, 1, 0, {"text": ModalityState(1, item(1.0).features["text"])})
    model.results = [Vector(packed(1, 0, 0, 0), ("text",))]
    watched.vectors([item(1.0)])
    model.results = [Vector(packed(0, 1, 0, 0), ("text",), base=packed(1, 0, 0, 0))]
    watched.vectors([Recompute(TRIGGER, CHOSEN, state)])
    assert jumps(watch) == [0.0]


def test_what_has_no_vector_is_not_looked_at() -> None:
    watch, model = VectorWatch(None, DIM), Model()
    watched = WatchedItems(model, watch, "f2")
    model.results = [None, NO_VECTOR, *[Vector(packed(1, 0, 0, 0), ("text",))] * BLOCK]
    watched.vectors([item(1.0)] * len(model.results))
    assert [each.num_items for each in watch.verdicts] == [BLOCK]


def test_users_are_compared_with_what_they_come_to_next_by_the_vector_that_they_had() -> None:
    watch, model, table = VectorWatch(None, DIM), Model(), ItemTable(DIM, "float32", "cpu")
    for name, row in (("a", (1, 0, 0, 0)), ("b", (0, 1, 0, 0))):
        table.apply([ItemUpdate(name, 1, np.array(row, np.float32))])
    watched = WatchedUsers(model, watch, "f2", table, {"like": 1.0, "dislike": -1.0})
    met: list[float] = []
    watch.met = lambda cosines: met.extend(cosines.tolist())  # type: ignore[method-assign]
    steps = (("a", "like"), ("b", "like"), ("a", "dislike"), ("gone", "like"), ("b", "like"))
    for number, (item_id, kind) in enumerate(steps):
        events = [Event(number, f"e{number}", item_id, kind)]
        model.results = [Vector(packed(1, 1, 0, 0), num_events=1)]
        watched.vectors([User(TRIGGER, CHOSEN, number, UserState(0, events))])
    np.testing.assert_allclose(met, [0.707, 0.707], atol=1e-3)  # not of the first, a dislike, or an item without vector
