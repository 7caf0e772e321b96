"""A model takes the place of another in a loop on a log in memory: every vector is written as that of its own model."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from schemas import ItemVector, decode
from tests.fakes import FakeClient, FakeCluster, FakeEmbedder, feature
from tests.unit.loop.harness import EXACTLY_ONCE, SETTINGS, LoopHarness
from tests.unit.loop.test_next_space_loop import LIVE, NEXT, feed, spec
from worker.align import Contract
from worker.process.hot_swap import tried
from worker.records import Item, RecomputeTrigger
from worker.roles.items import ItemFormat, ItemsRole
from worker.stages.fuse import NO_VECTOR, Result, Vector
from worker.state.items import Attribute, ItemState, Made
from worker.topics import topics_of

OLD = ItemFormat(topics_of("items", SETTINGS), LIVE, "f2", 2)
NEW = replace(OLD, space_id=NEXT, compatible_ids=frozenset({LIVE}), earlier=OLD)


class Mirrored(FakeEmbedder):
    """Its vectors are the negatives of the other's."""

    def vectors(self, entries: Any) -> list[Result]:
        made = super().vectors(entries)
        return [
            each._replace(data=(-np.frombuffer(each.data, "<f2")).tobytes()) if isinstance(each, Vector) else each
            for each in made
        ]


@pytest.mark.parametrize("settings", [SETTINGS, EXACTLY_ONCE], ids=["at_least_once", "exactly_once"])
def test_batches_before_it_are_of_the_old_model_and_those_after_of_the_new_one(settings: Any) -> None:
    cluster = FakeCluster(2)
    role = ItemsRole(OLD, Contract(spec()), FakeEmbedder(), keep_features=True)
    with LoopHarness(FakeClient(cluster), role, settings=settings) as harness:
        feed(cluster, range(50))
        harness.until_committed()
        feed(cluster, range(50, 100))
        harness.pipeline.compute.serve(role.use(NEW, Mirrored(), None, None), NEW)
        feed(cluster, range(100, 150))
        harness.until_committed()
    records = [each for each in cluster.records("item-vectors") if each.key and each.value]
    published = [decode(ItemVector, each.value) for each in records]
    assert sorted(each.item_id for each in published) == sorted(f"i{number}" for number in range(150))
    for each in published:
        sign = 1 if each.space_id == LIVE else -1
        assert float(each.vector.to_numpy()[0]) == sign * (100 + int(each.item_id[1:])), each
    spaces = {each.item_id: each.space_id for each in published}
    assert {spaces[f"i{number}"] for number in range(50)} == {LIVE}
    assert {spaces[f"i{number}"] for number in range(100, 150)} == {NEXT}


def test_a_vector_that_was_to_be_published_again_is_written_as_that_of_the_model_that_made_it() -> None:
    trigger = RecomputeTrigger("items", 0, 0, b"i1")
    for form, space_id in ((OLD, LIVE), (NEW, NEXT)):
        made = Made(form.stamp, Vector(b"\0\0\0\0", ("text",)))
        state = ItemState(1, 2, 1, 0, {}, attributes={"price": Attribute(2, 1)}, made=made)
        entry = Item(trigger, "i1", 2, 0, {"text": feature()}, state=state, has_vector=True, at=1)
        written = NEW.output(entry, None, 0, receipt=None)  # type: ignore[arg-type]
        assert written is not None
        assert decode(ItemVector, written.value or b"").space_id == space_id


class Candidate:
    """A space that is to come, which gives what it is told to."""

    dim, dtype, references, expected_cosine = 2, "f2", None, 0.9

    def __init__(self, *results: Result) -> None:
        self.results = results

    def vectors(self, features: Any) -> list[Result]:
        return list(self.results)

    def take_over(self, pipeline: Any) -> None: ...


def unit(angle: float) -> Vector:
    return Vector(np.array([np.cos(angle), np.sin(angle)], "<f2").tobytes(), ("text",))


def test_what_is_tried_must_have_vectors_near_those_before_and_be_well() -> None:
    recent: list[tuple[Any, Vector]] = [({}, unit(0.01 * number)) for number in range(400)]
    near = [unit(0.01 * number + 0.1) for number in range(400)]
    assert tried(Candidate(*near), recent) == []  # type: ignore[arg-type]
    assert "1 of them have no vector" in tried(Candidate(NO_VECTOR, *near[1:]), recent)[0]  # type: ignore[arg-type]
    far = [unit(0.01 * number + 1.5) for number in range(400)]
    assert "a cosine of 0.07 with those before; it takes 0.81" in tried(Candidate(*far), recent)[0]  # type: ignore[arg-type]
    (told,) = tried(Candidate(*[unit(0.0)] * 400), [({}, unit(0.0))] * 400)  # type: ignore[arg-type]
    assert told.startswith("collapse: ")
