"""The items half in a space with graph fusion, on a log in memory: the vectors are those that evaluation has, whatever
came first."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from schemas import DeadLetter, Feature, ItemVector, NewItem, Reason, Tensor, decode, encode
from tests.fakes import FakeClient, FakeCluster, FakeRecord
from tests.unit.loop.harness import EXACTLY_ONCE, SETTINGS, LoopHarness
from tests.unit.train.worlds import WEIGHTS, trained
from worker.align import AlignRuntime, create_space
from worker.align.spec import GraphSpec, ModalitySpec, SelfAttentionSpec, SpaceSpec
from worker.data import split_by_time
from worker.data.load import assemble
from worker.errors import ClientError, ConfigError
from worker.evaluate.spaces import embed_items
from worker.monitoring.metrics import Metrics
from worker.process.service import Model, _load_model, make_role
from worker.records import Delete
from worker.settings import GraphSettings, Settings, StateSettings
from worker.state import MemoryStore, Stores
from worker.state.items import ItemState
from worker.state.overlay import StateOverlay
from worker.synthetic import Audience, Catalogue
from worker.topics import topics_of
from worker.train.run import item_parts

START_MS = 1_700_000_000_000
SPEC = SpaceSpec(
    dim=8,
    width=8,
    modalities={"text": ModalitySpec(dim=4), "image": ModalitySpec(dim=4)},
    fusion=SelfAttentionSpec(layers=1, heads=1, hidden=8),
    graph=GraphSpec(width=4, max_neighbors=3),
)
TOLERANCE = 5e-4  # neighbours pass through float16 in the table; so does a published vector
NAMES = tuple("abcdefghij")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    space = create_space(tmp_path_factory.mktemp("spaces") / "space", SPEC, seed=3)
    runtime = AlignRuntime(space, device="cpu", dtype="float32", threads=1, max_batch=8)
    return Model(space, runtime, runtime.warm_up(), None)


class Harness(LoopHarness):
    """Of the items role, put together as a worker does it."""

    def __init__(
        self,
        cluster: FakeCluster,
        model: Model,
        *,
        settings: Settings = SETTINGS,
        stores: Stores | None = None,
        until_caught_up: bool = False,
        refuse: Callable[[str, bytes | None], ClientError | None] = lambda topic, key: None,
        **graph: object,
    ) -> None:
        settings = settings.model_copy(update={"graph": GraphSettings.model_validate(graph)})
        client = FakeClient(cluster, refuse=refuse)
        metrics = Metrics(CollectorRegistry(), "items")
        role = make_role(settings, topics_of("items", settings), client, model, metrics)
        super().__init__(client, role, stores, settings, until_caught_up=until_caught_up)

    def until_final(self, expected: dict[str, np.ndarray]) -> None:
        """Committed, and published what is expected of every item."""
        self.until_committed()
        self.until(lambda: worst(self.cluster, expected) < TOLERANCE)


def item(name: str, *neighbors: str, revision: int = 1, partial: bool = False, **features: float) -> NewItem:
    """The features follow from the name, or from the numbers given."""
    seeds = features or {"text": sum(name.encode()), "image": sum(name.encode()) * 7}
    made = {
        modality: Feature.from_numpy(np.random.default_rng(int(seed)).standard_normal(4), "f4", encoder="e")
        for modality, seed in seeds.items()
        if seed is not None
    }
    return NewItem(
        item_id=name, revision=revision, event_time_ms=1_000, features=made, neighbors=neighbors, partial=partial
    )


def feed(cluster: FakeCluster, *items: NewItem) -> None:
    for each in items:
        cluster.append("items", sum(each.key) % cluster.num_partitions, each.key, encode(each))


def evaluated(model: Model, *items: NewItem) -> dict[str, np.ndarray]:
    """What evaluation makes of the messages."""
    loaded = assemble([decode(NewItem, encode(each)) for each in items], [], {"like": 1.0})
    found = embed_items(model.runtime, loaded.dataset)
    return {
        name: vector
        for name, vector, usable in zip(
            loaded.dataset.item_ids, found.vectors_ID.numpy(), found.usable_I.tolist(), strict=True
        )
        if usable
    }


def published(cluster: FakeCluster, name: str) -> list[ItemVector]:
    records = [record for record in cluster.records("item-vectors") if record.key == name.encode()]
    return [decode(ItemVector, record.value) for record in records if record.value is not None]


def last(cluster: FakeCluster) -> dict[str, np.ndarray]:
    found = {record.key.decode(): record.value for record in cluster.records("item-vectors")}
    return {
        name: decode(ItemVector, value).vector.to_numpy().astype("f4")
        for name, value in found.items()
        if value is not None
    }


def worst(cluster: FakeCluster, expected: dict[str, np.ndarray]) -> float:
    found = last(cluster)
    if found.keys() != expected.keys():
        return np.inf
    return max((float(np.abs(found[name] - expected[name]).max()) for name in expected), default=0.0)


def catalogue(seed: int = 0) -> list[NewItem]:
    """Some name neighbours that do not exist, some more of them than take part, some none."""
    dice = random.Random(seed)
    return [item(name, *dice.sample([*NAMES, "nobody", "nowhere"], dice.randrange(7))) for name in NAMES]


@pytest.mark.parametrize("settings", [SETTINGS, EXACTLY_ONCE], ids=["at_least_once", "exactly_once"])
@pytest.mark.parametrize("seed", range(2))
def test_the_vectors_are_those_of_evaluation_whatever_came_first(model: Model, settings: Settings, seed: int) -> None:
    items = catalogue(seed)
    expected = evaluated(model, *items)
    cluster = FakeCluster(2)
    with Harness(cluster, model, settings=settings) as harness:
        for each in random.Random(seed).sample(items, len(items)):
            feed(cluster, each)
            if seed:  # otherwise all at once
                harness.until_committed()
        harness.until_final(expected)
    totals = harness.metrics.accounting.totals
    assert (totals.consumed, sum(totals.published.values()), totals.unaccounted()) == (len(items), len(items), 0)
    moved = [name for name in NAMES if np.abs(expected[name] - evaluated(model, item(name))[name]).max() > 0.01]
    assert len(moved) >= 5, "or nothing has been shown"


def test_what_training_found_and_evaluation_judged_is_what_is_served(tmp_path: Path) -> None:
    """From the items, and then the parts that `train --graph` writes for their topic, each in no order."""
    made = Catalogue(3, missing_share=0.3)
    items = list(made.items(60))
    messages = [each.message(1, 0) for each in items]
    events = [
        each.message()
        for each in Audience(made, 40, seed=0, start_ms=START_MS).events(items, 900, end_ms=START_MS + 10**9)
    ]
    loaded = assemble(messages, events, WEIGHTS)
    split = split_by_time(loaded.dataset.events, np.zeros(60, bool), np.arange(60) % 5 == 0)
    space, learned = trained(tmp_path / "space", loaded.dataset, split, epochs=1, graph=True)
    parts = list(item_parts(loaded, learned, "behavior"))
    dice = random.Random(0)
    everything = [*dice.sample(messages, len(messages)), *dice.sample(parts, len(parts))]
    served = Model(space, (runtime := AlignRuntime(space, device="cpu", dtype="float32", threads=1, max_batch=8)),
                   runtime.warm_up(), None)  # fmt: skip
    judged = embed_items(runtime, assemble(everything, events, WEIGHTS).dataset).vectors_ID.numpy()
    cluster = FakeCluster(2)
    feed(cluster, *everything)
    with Harness(cluster, served, follow_changes=True) as harness:  # items come in two parts
        harness.until_final(dict(zip(loaded.dataset.item_ids, judged, strict=True)))


def test_a_neighbour_that_comes_later_moves_the_item_again(model: Model) -> None:
    cluster = FakeCluster(1)
    feed(cluster, item("a", "b", "nobody"))
    with Harness(cluster, model) as harness:
        harness.until_final(evaluated(model, item("a")))
        assert published(cluster, "a")[-1].base_vector is None, "nothing has moved it"
        feed(cluster, item("b"))
        harness.until_final(evaluated(model, item("a", "b"), item("b")))
        harness.until(lambda: harness.metrics.registry.get_sample_value(
            "align_waiting_pairs", {"topic": "items"}) == 1)  # fmt: skip
    first, second = published(cluster, "a")
    assert (first.revision, first.source_offset) == (second.revision, second.source_offset) == (1, 0)
    assert second.base_vector.data == first.vector.data
    assert harness.metrics.registry.get_sample_value("align_recomputed_total", {"topic": "items"}) == 1
    assert harness.metrics.accounting.totals.unaccounted() == 0
    assert len(cluster.records("item-state")) == 2, "a computation anew remembers nothing new"


def test_one_hop_only(model: Model) -> None:
    """`a` attends to what `b` was before `b` attended to `c`."""
    items = [item("a", "b"), item("b", "c"), item("c")]
    cluster = FakeCluster(1)
    feed(cluster, *items[1:])
    with Harness(cluster, model) as harness:
        harness.until_final(evaluated(model, *items[1:]))
        feed(cluster, items[0])
        harness.until_final(evaluated(model, *items))
        feed(cluster, item("c", revision=2, text=99))
        harness.until_committed()
    assert np.abs(last(cluster)["a"] - evaluated(model, *items)["a"]).max() < TOLERANCE


@pytest.mark.parametrize("follows", [False, True])
def test_a_changed_neighbour_moves_items_only_where_configured(model: Model, follows: bool) -> None:
    """And two that name one another come to rest."""
    before, after = item("b", "a"), item("b", "a", revision=2, text=99, image=98)
    cluster = FakeCluster(1)
    feed(cluster, item("a", "b"), before)
    with Harness(cluster, model, follow_changes=follows) as harness:
        harness.until_final(evaluated(model, item("a", "b"), before))
        feed(cluster, after)
        harness.until_committed()
        if follows:
            harness.until_final(evaluated(model, item("a", "b"), after))
        feed(cluster, item("c"))
        harness.until_committed()
        count = len(published(cluster, "a"))
        feed(cluster, item("d"))
        harness.until_committed()
        assert len(published(cluster, "a")) == count
    unmoved = evaluated(model, item("a", "b"), before)["a"]
    assert bool(np.abs(last(cluster)["a"] - unmoved).max() > 0.01) is follows
    assert len(published(cluster, "a")) <= 4


def test_a_neighbour_that_goes_lets_go_where_configured(model: Model) -> None:
    cluster = FakeCluster(1)
    feed(cluster, item("a", "b"), item("b"))
    with Harness(cluster, model, follow_changes=True) as harness:
        harness.until_final(evaluated(model, item("a", "b"), item("b")))
        cluster.append("items", 0, b"b", None)
        harness.until_final(evaluated(model, item("a")))
        feed(cluster, item("b", text=5))
        harness.until_final(evaluated(model, item("a", "b"), item("b", text=5)))


def publish(cluster: FakeCluster, model: Model, name: str) -> None:
    """As a worker that has another partition does."""
    vector = evaluated(model, item(name))[name]
    message = ItemVector(
        item_id=name, revision=1, event_time_ms=0, space_id=model.space.space_id, modalities=("text",),
        vector=Tensor.from_numpy(vector, "f4"), produced_at_ms=0, source_offset=0,
    )  # fmt: skip
    cluster.append("item-vectors", 1, message.key, encode(message))


@pytest.mark.parametrize("on_disk", [False, True])
def test_who_waited_still_waits_after_a_restart(model: Model, tmp_path: Path, on_disk: bool) -> None:
    """And whose neighbour came while nobody worked is computed at once; whose neighbour did not, is not."""

    def harness() -> Harness:
        return Harness(cluster, model, stores=Stores(tmp_path, "item-state", "g") if on_disk else None)

    cluster = FakeCluster(2)
    for name, neighbor in (("a", "b"), ("c", "d"), ("e", "f")):
        value = item(name, neighbor)
        cluster.append("items", 0, value.key, encode(value))
    with harness() as first:
        first.until_committed()
    publish(cluster, model, "b")
    with harness() as second:
        second.until(lambda: len(published(cluster, "a")) == 2)
        publish(cluster, model, "d")
        second.until(lambda: len(published(cluster, "c")) == 2)
        assert len(published(cluster, "e")) == 1
    expected = evaluated(model, item("a", "b"), item("b"), item("c", "d"), item("d"))
    assert all(np.abs(last(cluster)[name] - expected[name]).max() < TOLERANCE for name in "ac")


def test_nothing_is_worked_on_before_the_item_vectors_have_been_read(model: Model) -> None:
    cluster = FakeCluster(2)
    publish(cluster, model, "b")
    value = item("a", "b")
    cluster.append("items", 0, value.key, encode(value))
    harness = Harness(cluster, model)
    step, may_read = harness.role.dependents.catalogue.step, list[bool]()
    harness.role.dependents.stage._step = lambda: step() if may_read else None
    with harness:
        harness.until(lambda: any(held.state == "restoring" for held in harness.pipeline.assignment.all()))
        assert not harness.role.is_ready()
        assert published(cluster, "a") == []
        may_read.append(True)
        harness.until_committed()
    (only,) = published(cluster, "a")
    assert only.base_vector is not None


def test_neighbours_may_come_alone_before_or_after_the_features(model: Model) -> None:
    cluster = FakeCluster(1)
    late = item("a", "b", revision=2, partial=True, text=None)
    early = item("c", "b", revision=1, partial=True, text=None)
    stale = item("a", "c", revision=1, partial=True, text=None)
    feed(cluster, early, item("a"), item("b"), item("c", revision=2, partial=True, text=3), late, stale)
    with Harness(cluster, model) as harness:
        harness.until_final(
            evaluated(model, item("a", "b"), item("b"), item("c", "b", revision=2, partial=True, text=3))
        )
    totals = harness.metrics.accounting.totals
    assert totals.superseded["stale_revision"] == 1
    assert totals.unaccounted() == 0
    assert cluster.records("dead-letters") == []


def test_a_whole_message_without_features_is_still_refused(model: Model) -> None:
    cluster = FakeCluster(1)
    feed(cluster, item("a", "b", text=None))
    with Harness(cluster, model) as harness:
        harness.until_committed()
    (letter,) = [decode(DeadLetter, record.value) for record in cluster.records("dead-letters")]
    assert letter.reason == Reason.NO_MODALITY


def test_an_item_that_goes_waits_no_more(model: Model) -> None:
    cluster = FakeCluster(1)
    feed(cluster, item("a", "b", "c"), item("d", "b"))
    with Harness(cluster, model) as harness:
        harness.until_committed()
        assert harness.role.dependents.waiting.num_pairs == 3
        cluster.append("items", 0, b"d", None)
        harness.until_committed()
        assert harness.role.dependents.waiting.num_pairs == 2


def test_a_waiting_list_that_is_full_is_counted(model: Model) -> None:
    cluster = FakeCluster(1)
    feed(cluster, item("a", "b", "c", "d"))
    with Harness(cluster, model, max_waiting=2) as harness:
        harness.until_committed()
        harness.until(lambda: harness.metrics.registry.get_sample_value(
            "align_waiting_overflow_total", {"topic": "items"}) == 1)  # fmt: skip


def test_a_run_to_the_end_of_the_log_ends_with_every_neighbour_known(model: Model) -> None:
    items = catalogue(5)
    cluster = FakeCluster(2)
    feed(cluster, *items)
    harness = Harness(cluster, model, until_caught_up=True)
    followed = harness.role.dependents.catalogue
    # What the worker itself writes is read only when the loop asks whether all has been: the end must wait for that.
    harness.role.dependents.stage._step = lambda: (
        followed.step() if followed._is_asked or not cluster.records("item-vectors") else None
    )
    with harness:
        harness.until_ended()
    assert harness.pipeline.is_caught_up
    assert worst(cluster, evaluated(model, *items)) < TOLERANCE


def test_a_refused_output_is_computed_again_and_no_neighbour_is_forgotten(model: Model) -> None:
    refusals = [2]

    def refuse(topic: str, key: bytes | None) -> ClientError | None:
        if topic == "item-vectors" and refusals[0]:
            refusals[0] -= 1
            return ClientError("the broker went away")
        return None

    items = catalogue(7)
    cluster = FakeCluster(2)
    feed(cluster, *items)
    with Harness(cluster, model, refuse=refuse) as harness:
        harness.until_final(evaluated(model, *items))
    assert harness.metrics.accounting.totals.unaccounted() == 0


def test_outputs_of_an_item_never_go_back(model: Model) -> None:
    """Neither in what they come from nor in their revision, however its messages and those of its neighbours mix."""
    dice, cluster = random.Random(1), FakeCluster(1)
    with Harness(cluster, model, follow_changes=True) as harness:
        final: dict[str, NewItem] = {}
        for revision in range(2, 14):
            for name in NAMES[:4]:
                final[name] = item(name, *dice.sample(NAMES[:5], 3), revision=revision, text=dice.randrange(99))
                feed(cluster, final[name])
        harness.until_final(evaluated(model, *final.values()))
    for name in NAMES[:4]:
        sources = [vector.source_offset for vector in published(cluster, name)]
        assert sources == sorted(sources)


def test_what_an_earlier_owner_has_published_of_a_newer_message_is_not_gone_behind(model: Model) -> None:
    cluster = FakeCluster(1)
    feed(cluster, item("a", "b"))
    with Harness(cluster, model) as harness:
        harness.until_committed()
        overlay = harness.pipeline.assignment.all()[0].tenure.overlay
        harness.until(lambda: len(overlay) == 0)
        overlay.published["a"] = 7  # to come again
        assert harness.role.recompute(["a"], 0, overlay) == []
        del overlay.published["a"]
        (entry,) = harness.role.recompute(["a", "gone"], 0, overlay)
    assert (entry.id, entry.record.offset) == ("a", 0)


def test_what_is_under_way_is_computed_anew_when_it_is_settled(model: Model) -> None:
    """Until then it may become a dead letter, of which there must be no vector."""
    cluster = FakeCluster(1)
    harness = Harness(cluster, model)
    role, overlay = harness.role, StateOverlay(MemoryStore(), ItemState.decode)
    state = ItemState(4, 1, 1, 0, {})
    overlay.put("a", state, 4)
    assert role.recompute(["a"], 0, overlay) == []
    assert role.newly_due() == {0: {"a"}}
    overlay.settle({"a": state.encode()}, {"a": Delete(FakeRecord(offset=4), "a")}, [], 1)
    (entry,) = role.recompute(["a"], 0, overlay)
    assert (entry.id, entry.state) == ("a", state)
    assert role.newly_due() == {}
    harness.pipeline.abort()


def test_a_worker_that_remembers_no_features_is_refused(model: Model, tmp_path: Path) -> None:
    create_space(tmp_path / "space", SPEC)
    settings = SETTINGS.model_copy(
        update={
            "space": SETTINGS.space.model_copy(update={"path": tmp_path / "space"}),
            "state": StateSettings(features=False),
        }
    )
    with pytest.raises(ConfigError, match=r"state\.features: .*fuses items with their neighbours"):
        _load_model(settings)
