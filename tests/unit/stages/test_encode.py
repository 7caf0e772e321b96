"""The encode stage in the whole loop: what must hold between raw content and vectors, whatever happens on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from schemas import Content, DeadLetter, ItemVector, NewItem, Reason, decode, encode
from tests.fakes import FakeClient, FakeCluster, FakeEmbedder, FakeRecord, feature
from tests.unit.loop.harness import SETTINGS, LoopHarness
from worker.align import Contract
from worker.align.spec import ModalitySpec, SelfAttentionSpec, SpaceSpec
from worker.encode.content import ContentEncoder, Figures, Reading, Report, Route
from worker.encode.decoder_pool import DecoderPool
from worker.encode.encoder import Piece, RemoteFigures, UnavailableError, Unit
from worker.encode.media.errors import ContentError
from worker.encode.media.forms import Form, Part, Text, TextForm
from worker.errors import SystemicError
from worker.kafka.port import Commit
from worker.monitoring.metrics import CONTENT_REASONS, EncodeMetrics, Metrics
from worker.partitions.state import PartitionState, StopReason
from worker.partitions.tenure import Tenure
from worker.records import TopicPartition
from worker.roles.items import ItemFormat, ItemsRole
from worker.stages.encode import EncodeStage
from worker.state import MemoryStore, Stores
from worker.state.items import ItemState
from worker.state.overlay import StateOverlay
from worker.topics import topics_of

SPEC = SpaceSpec(
    dim=2,
    width=4,
    modalities={name: ModalitySpec(dim=4) for name in ("image", "text")},
    fusion=SelfAttentionSpec(layers=1, heads=1, hidden=4),
)
P0, P1 = TopicPartition("items", 0), TopicPartition("items", 1)


class Cosines:
    """The text "0.5" is a vector whose first element is 0.5. Some texts break it, and a gate may hold it up."""

    name = "cosines-v1"
    unit: Unit = "tokens"
    dim = 4
    batch_cost = 1_000

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.is_broken = False

    def forms(self, num_vectors: int) -> tuple[Form, ...]:
        return (TextForm(100),)

    def pieces(self, parts: Sequence[Part | None]) -> list[Piece]:
        return [Piece(part.text, len(part.text)) for part in parts if isinstance(part, Text)]

    def encode(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        texts = [piece.payload for piece in pieces]
        if texts == ["a"]:  # the sample that is known to be good
            texts = ["0.0"]
        else:
            self.entered.set()
            assert self.gate.wait(10)
            self.seen += texts
        if "bad" in texts or self.is_broken:
            raise ValueError("no number")
        values = np.array([float(text) for text in texts])
        return np.stack([values, np.sqrt(1 - values**2), 0 * values, 0 * values], 1).astype(np.float32)


class Harness(LoopHarness):
    """Of the items role, with an encoder for text and image."""

    def __init__(self, cluster: FakeCluster, pool: DecoderPool, stores: Stores | None = None, **role: Any) -> None:
        topics = topics_of("items", SETTINGS)
        self.text, self.image = Cosines(), Cosines()
        self.encoding = EncodeStage(ContentEncoder(self.routes(), pool), SETTINGS.batch)
        options = {"keep_features": True, "encoding": self.encoding, **role}
        made = ItemsRole(ItemFormat(topics, "space", "f2", 2), Contract(SPEC), FakeEmbedder(), **options)
        super().__init__(FakeClient(cluster), made, stores)

    def routes(self) -> list[Route]:
        return [Route("image", "image", self.image), Route("text", "text", self.text)]


@pytest.fixture
def pool() -> Iterator[DecoderPool]:
    made = DecoderPool(1)
    yield made
    made.close()


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


def item(name: str, revision: int = 1, *, partial: bool = False, features: Any = None, **texts: str) -> bytes:
    content = {modality: Content(text=text) for modality, text in texts.items()}
    return encode(
        NewItem(
            item_id=name, revision=revision, event_time_ms=1_000, partial=partial, features=features or {},
            content=content,
        )
    )  # fmt: skip


def feed(cluster: FakeCluster, name: str, revision: int = 1, partition: int = 0, **fields: Any) -> int:
    return cluster.append("items", partition, name.encode(), item(name, revision, **fields))


def published(cluster: FakeCluster) -> dict[str, tuple[int, float, tuple[str, ...]]]:
    """Revision, first element and modalities of the last vector of each item."""
    vectors = [decode(ItemVector, record.value) for record in cluster.records("item-vectors")]
    return {
        each.item_id: (each.revision, pytest.approx(float(each.vector.to_numpy()[0]), abs=1e-3), each.modalities)
        for each in vectors
    }


def dead_letters(cluster: FakeCluster) -> list[DeadLetter]:
    return [decode(DeadLetter, record.value) for record in cluster.records("dead-letters")]


def test_content_and_features_become_vectors_in_one_item(cluster: FakeCluster, pool: DecoderPool) -> None:
    feed(cluster, "raw", text="0.25")
    feed(cluster, "both", features={"text": feature()}, image="0.5")
    feed(cluster, "made", features={"text": feature(fill=0.75)}, text="bad")
    with Harness(cluster, pool) as harness:
        harness.until_committed()
    assert published(cluster) == {
        "raw": (1, 0.25, ("text",)),
        "both": (1, 0.5, ("image", "text")),
        "made": (1, 0.75, ("text",)),
    }
    assert (harness.text.seen, harness.image.seen) == (["0.25"], ["0.5"])
    assert harness.metrics.content_ignored.labels("items")._value.get() == 0
    assert harness.metrics.accounting.totals.unaccounted() == 0


def test_what_is_remembered_is_features_and_no_content(cluster: FakeCluster, pool: DecoderPool) -> None:
    feed(cluster, "a", text="0." + "5" * 90)
    with Harness(cluster, pool) as harness:
        harness.until_committed()
    (record,) = cluster.records("item-state")
    state = ItemState.decode(record.value or b"")
    assert state.parts["text"].digest is not None
    assert state.parts["text"].feature.encoder == "cosines-v1"
    assert b"555" not in (record.value or b"")


def test_bad_content_is_a_dead_letter_and_displaces_nothing(cluster: FakeCluster, pool: DecoderPool) -> None:
    """Neither a neighbour, nor the item's good content, even though that is older and comes later."""
    feed(cluster, "a", 9, text="bad")
    feed(cluster, "a", 5, text="0.5")
    feed(cluster, "b", 1, text="0.25", image="0.5")
    feed(cluster, "b", 2, partial=True, text=" ")
    feed(cluster, "b", 3, partial=True, image="0.75")
    with Harness(cluster, pool) as harness:
        harness.until_committed()
    assert published(cluster) == {"a": (5, 0.5, ("text",)), "b": (3, 0.75, ("image", "text"))}
    letters = dead_letters(cluster)
    assert [(letter.key, letter.reason, letter.stage) for letter in letters] == [
        (b"a", Reason.MODEL_FAILURE, "encode"),
        (b"b", Reason.UNDECODABLE, "encode"),
    ]
    assert all(letter.detail.startswith("content.text: ") for letter in letters)
    assert harness.encoding.totals["text"].refused == 2
    assert harness.metrics.accounting.totals.unaccounted() == 0


class LateServer:
    """In place of what fetches: nothing comes in time."""

    def fetch_all(self, uris: Sequence[str]) -> Iterator[tuple[ContentError, float]]:
        return ((ContentError(Reason.FETCH_FAILED, f"uri: takes longer than 1 s: {uri}"), 1.0) for uri in uris)

    def close(self) -> None:
        pass


def test_the_log_names_the_items_and_uris_that_were_late(
    cluster: FakeCluster, pool: DecoderPool, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(8):
        content = {"text": Content(uri=f"https://cdn.test/{number}.txt")}
        message = NewItem(item_id=f"i{number}", revision=1, event_time_ms=1_000, content=content)
        cluster.append("items", 0, f"i{number}".encode(), encode(message))
    harness = Harness(cluster, pool)
    harness.encoding.encoder._fetcher = LateServer()  # type: ignore[assignment]
    with harness:
        harness.until_committed()
    assert len(dead_letters(cluster)) == 8
    told = [record.message for record in caplog.records if vars(record).get("action") == "fetch_failed"]
    assert told[0] == "item 'i0': content.text: uri: takes longer than 1 s: https://cdn.test/0.txt"
    assert sum("more items" in line or "cdn.test" in line for line in told) == len(told)


def test_parts_keep_their_own_revisions(cluster: FakeCluster, pool: DecoderPool) -> None:
    feed(cluster, "a", 5, partial=True, text="0.5")
    feed(cluster, "a", 7, partial=True, image="0.25")
    feed(cluster, "a", 4, partial=True, text="0.125")
    with Harness(cluster, pool) as harness:
        harness.until_committed()
        feed(cluster, "a", 6, partial=True, text="0.75", image="bad")
        harness.until_committed()
        feed(cluster, "a", 6, partial=True, image="0.875")
        feed(cluster, "a", 8, partial=True, text="0.75")
        harness.until_committed()
    assert published(cluster) == {"a": (8, 0.25, ("image", "text"))}
    state = ItemState.decode(cluster.records("item-state")[-1].value or b"")
    assert {name: part.revision for name, part in state.parts.items()} == {"image": 7, "text": 8}


@pytest.mark.parametrize("keep_features", [True, False])
def test_unchanged_content_is_not_encoded_again(cluster: FakeCluster, pool: DecoderPool, keep_features: bool) -> None:
    with Harness(cluster, pool, keep_features=keep_features) as harness:
        for revision in (1, 2):
            feed(cluster, "a", revision, text="0.5")
        harness.until_committed()
        feed(cluster, "a", 3, text="0.5", image="0.25")
        harness.until_committed()
        feed(cluster, "a", 4, text="0.75", image="0.25")
        harness.until_committed()
    assert (harness.text.seen, harness.image.seen) == (["0.5", "0.75"], ["0.25"])
    assert (harness.encoding.totals["text"].encoded, harness.encoding.totals["text"].reused) == (2, 2)
    assert published(cluster)["a"][0] == 4


def test_nor_after_a_restart_or_by_the_next_owner(cluster: FakeCluster, pool: DecoderPool) -> None:
    """The state tells, which comes back from the changelog; nothing is left in memory."""
    feed(cluster, "a", 1, text="0.5")
    with Harness(cluster, pool) as first:
        first.until_committed()
    with Harness(cluster, DecoderPool(1)) as second:
        feed(cluster, "a", 2, text="0.5", image="0.25")
        feed(cluster, "b", 1, text="0.125")
        second.until_committed()
    assert (second.text.seen, second.image.seen) == (["0.125"], ["0.25"])
    assert second.encoding.totals["text"].reused == 1
    assert published(cluster)["a"] == (2, 0.25, ("image", "text"))


def test_inputs_that_newer_ones_have_overtaken_are_not_encoded(cluster: FakeCluster, pool: DecoderPool) -> None:
    feed(cluster, "a", 9, text="0.5")
    with Harness(cluster, pool) as harness:
        harness.until_committed()
        feed(cluster, "a", 8, text="0.25")
        harness.until_committed()
    assert harness.text.seen == ["0.5"]
    assert harness.metrics.accounting.totals.superseded["stale_revision"] == 1


def test_a_slow_encoder_holds_up_neither_polling_nor_features(cluster: FakeCluster, pool: DecoderPool) -> None:
    with Harness(cluster, pool) as harness:
        harness.text.gate.clear()
        feed(cluster, "slow", text="0.5")
        harness.until(harness.text.entered.is_set)
        for number in range(20):
            feed(cluster, f"fast-{number}", partition=1, features={"text": feature()})
        feed(cluster, "behind", features={"text": feature()})
        harness.until(lambda: len(published(cluster)) == 20)
        polled_at = harness.pipeline.vitals().moved_at["items poll"]
        harness.until(lambda: harness.pipeline.vitals().moved_at["items poll"] > polled_at)
        assert harness.cluster.commits.get(P0, Commit(0)).offset == 0
        harness.text.gate.set()
        harness.until_committed()
    assert published(cluster).keys() >= {"slow", "behind"}
    assert harness.metrics.accounting.totals.unaccounted() == 0


def test_what_waits_for_the_encoder_is_bounded(cluster: FakeCluster, pool: DecoderPool) -> None:
    limit = SETTINGS.batch.queue_records
    with Harness(cluster, pool) as harness:
        harness.text.gate.clear()
        for number in range(10 * limit):
            feed(cluster, f"i{number}", text="0.5" if number % 3 else "0.25")
        harness.until(lambda: harness.encoding.num_records >= limit)
        harness.until(lambda: harness.consumer._paused == {P0, P1})
        assert harness.encoding.num_records < limit + 2 * SETTINGS.batch.max_records * 2
        harness.text.gate.set()
        harness.until_committed()
    assert len(published(cluster)) == 10 * limit
    assert harness.metrics.accounting.totals.unaccounted() == 0


@pytest.mark.parametrize("event", ["revoked", "lost"])
def test_what_is_encoded_for_a_partition_that_went_is_dropped(
    cluster: FakeCluster, pool: DecoderPool, event: str
) -> None:
    with Harness(cluster, pool) as harness:
        harness.text.gate.clear()
        feed(cluster, "a", text="0.5")
        harness.until(harness.text.entered.is_set)
        harness.consumer.rebalance(event, [P0])
        harness.until(lambda: P0 not in harness.pipeline.assignment)
        harness.text.gate.set()
        harness.until(lambda: harness.encoding.num_records == 0)
        assert published(cluster) == {}
        assert P0 not in cluster.commits
        harness.consumer.rebalance("assigned", [P0])
        harness.until_committed()
    assert published(cluster) == {"a": (1, 0.5, ("text",))}
    totals = harness.metrics.accounting.totals
    assert (totals.abandoned, totals.unaccounted()) == (1, 0)


def test_a_drain_finishes_what_waits_for_the_encoder(cluster: FakeCluster, pool: DecoderPool) -> None:
    with Harness(cluster, pool) as harness:
        harness.text.gate.clear()
        for number in range(20):
            feed(cluster, f"i{number}", text=f"0.{number}")
        harness.until(lambda: harness.encoding.num_records == 20)
        opener = threading.Timer(0.05, harness.text.gate.set)
        opener.start()
    opener.join()
    assert len(published(cluster)) == 20
    assert cluster.commits[P0].offset == 20


def test_an_encoder_that_fails_on_everything_ends_the_process(cluster: FakeCluster, pool: DecoderPool) -> None:
    feed(cluster, "a", text="0.5")
    harness = Harness(cluster, pool)
    harness.text.is_broken = True
    with harness:
        harness._thread.join(10)
    assert isinstance(harness.error, SystemicError)
    assert "cosines-v1 fails on everything" in str(harness.error)
    assert dead_letters(cluster) == []


@pytest.mark.parametrize(
    ("with_encoders", "content", "detail"),
    [
        (False, "text", "content: came text; this worker has encoders for no content (encode.encoders)"),
        (True, "smell", "content: came smell; this worker has encoders for image, text (encode.encoders)"),
    ],
)
def test_content_without_an_encoder_is_refused_and_the_setting_named(
    cluster: FakeCluster, pool: DecoderPool, with_encoders: bool, content: str, detail: str
) -> None:
    feed(cluster, "a", **{content: "0.5"})
    with Harness(cluster, pool, **({} if with_encoders else {"encoding": None})) as harness:
        harness.until_committed()
    (letter,) = dead_letters(cluster)
    assert (letter.reason, letter.stage, letter.detail) == (Reason.NO_MODALITY, "decode", detail)


def test_a_batch_that_nobody_wants_is_given_up(pool: DecoderPool) -> None:
    """In the middle, so that a partition that went does not hold up those that stay."""
    text = Cosines()
    text.batch_cost = 1  # a batch per piece
    encoding = EncodeStage(ContentEncoder([Route("text", "text", text)], pool), SETTINGS.batch)
    tenures = [tenure(P0), tenure(P1)]
    for partition, each in enumerate(tenures):
        encoding.put(each, decoded(encoding, 8, partition))
    original: Callable[[Sequence[Piece]], Any] = text.encode

    def retire_in_the_middle(pieces: Sequence[Piece]) -> NDArray[np.float32]:
        if len(text.seen) == 3:
            tenures[0].retire()
        return np.asarray(original(pieces))

    text.encode = retire_in_the_middle  # type: ignore[method-assign]
    encoding.stage._step()
    assert len(text.seen) == 4
    encoding.stage._step()
    assert [taken for taken, _ in encoding.take()] == [tenures[1]]
    assert (encoding.num_records, encoding.num_bytes, encoding.takes(tenures[1], [])) == (0, 0, False)


def tenure(partition: TopicPartition) -> Tenure:
    made = Tenure(partition, Commit(0))
    made.overlay = StateOverlay(MemoryStore(), ItemState.decode)
    return made


def decoded(encoding: EncodeStage, num_items: int, partition: int = 0, **content: Content) -> list[Any]:
    from worker.stages.decode import ItemDecoder

    decoder = ItemDecoder(Contract(SPEC), encodes=encoding.encoder)
    values = [
        NewItem(
            item_id=f"{partition}-{number}", revision=1, event_time_ms=1_000,
            content=content or {"text": Content(text=f"0.{partition}{number}")},
        )
        for number in range(num_items)
    ]  # fmt: skip
    records = [
        FakeRecord("items", partition, number, key=value.key, value=encode(value))
        for number, value in enumerate(values)
    ]
    return list(decoder.decode(records).entries)


def test_metrics_are_by_modality_and_complete_from_the_start() -> None:
    metrics = Metrics(CollectorRegistry(), "items")
    measured = EncodeMetrics(metrics, ["frames", "sound"], ["video"])
    report = Report()
    figures = Figures(encoded=3, reused=2, cut=1, vectors=6, cost=30, padded_cost=40, encode_s=0.5)
    figures.failed[Reason.UNDECODABLE] = 4
    report.by_modality["frames"] = figures
    report.by_content["video"] = Reading(fetched=2, fetch_s=1.5, fetch_failed=1, decoded=7, decode_s=2.5)
    measured.observe(report, 1.0)
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
    }
    expected: Mapping[tuple[str, ...], float] = {
        ("align_encode_seconds_total", "frames"): 0.5,
        ("align_encode_contents_total", "frames"): 3,
        ("align_encode_reused_total", "frames"): 2,
        ("align_encode_cut_total", "frames"): 1,
        ("align_encode_cost_units_total", "frames"): 30,
        ("align_encode_padded_cost_units_total", "frames"): 40,
        ("align_encode_padding_ratio", "frames"): 0.25,
        ("align_encode_failures_total", "frames", "undecodable"): 4,
        ("align_content_read_seconds_total", "video"): 2.5,
        ("align_content_read_total", "video"): 7,
        ("align_fetch_seconds_total", "video"): 1.5,
        ("align_fetches_total", "video"): 2,
        ("align_fetch_failures_total", "video"): 1,
        ("align_stage_duration_seconds_count", "encode"): 1,
    }
    assert {key: samples[key] for key in expected} == expected
    assert all(("align_encode_failures_total", *sorted(("sound", reason))) in samples for reason in CONTENT_REASONS)


# ---------------------------------------------------------------------- encoders that are elsewhere


class Elsewhere(Cosines):
    """Answers while it is well."""

    def __init__(self) -> None:
        super().__init__()
        self.is_well = True
        self.num_tries = 0
        self.figures = RemoteFigures()

    def adopt(self, name: str) -> bool:
        return name == self.name

    def require_well(self, beat: Callable[[], None]) -> None: ...

    def rows(self, pieces: Sequence[Piece], beat: Callable[[], None], trace: str = "") -> list[Any]:
        self.num_tries += 1
        beat()
        if not self.is_well:
            raise UnavailableError("http://models.test does not answer", time.monotonic() + 0.01)
        return list(self.encode(pieces))

    def close(self) -> None: ...


class HarnessWithServer(Harness):
    """The texts are encoded elsewhere, the images here."""

    def __init__(self, cluster: FakeCluster, pool: DecoderPool) -> None:
        self.server = Elsewhere()
        super().__init__(cluster, pool)

    def routes(self) -> list[Route]:
        return [Route("image", "image", self.image), Route("text", "text", self.server)]


def stop_reasons(harness: Harness) -> dict[int, Any]:
    return {each.partition.partition: each.reason for each in harness.pipeline.assignment.all()}


def test_items_wait_for_an_encoder_that_is_down_and_none_of_them_is_refused(
    cluster: FakeCluster, pool: DecoderPool
) -> None:
    for number in range(20):
        feed(cluster, f"item-{number}", text=f"0.{number:02}")
    harness = HarnessWithServer(cluster, pool)
    harness.server.is_well = False
    with harness:
        harness.until(lambda: stop_reasons(harness).get(0) == StopReason.ENCODER_DOWN)
        (held,) = [each for each in harness.pipeline.assignment.all() if each.partition == P0]
        assert held.state == PartitionState.STOPPED
        assert held.detail == "text: http://models.test does not answer"
        harness.until(lambda: harness.server.num_tries > 5)
        feed(cluster, "item-20", text="0.20")
        harness.server.is_well = True
        harness.until(lambda: len(published(cluster)) == 21)
        harness.until(lambda: stop_reasons(harness).get(0) is None)
    assert not dead_letters(cluster)
    assert published(cluster)["item-7"][1] == 0.07


def test_what_does_not_need_the_encoder_that_is_down_goes_on(cluster: FakeCluster, pool: DecoderPool) -> None:
    feed(cluster, "text", text="0.5")
    feed(cluster, "picture", partition=1, image="0.25")
    harness = HarnessWithServer(cluster, pool)
    harness.server.is_well = False
    with harness:
        harness.until(lambda: "picture" in published(cluster))
        for number in range(5):
            feed(cluster, f"picture-{number}", partition=1, image="0.25")
        harness.until(lambda: len(published(cluster)) == 6)
        harness.until(lambda: stop_reasons(harness) == {0: StopReason.ENCODER_DOWN, 1: None})
        harness.server.is_well = True
        harness.until(lambda: "text" in published(cluster))


def test_batches_that_are_encoded_at_a_time_come_out_in_the_order_of_their_partition(pool: DecoderPool) -> None:
    text = Cosines()
    settings = SETTINGS.batch.model_copy(update={"max_records": 1})
    encoding = EncodeStage(ContentEncoder([Route("text", "text", text)], pool), settings, lanes=2)
    encoding.put(tenure(P0), decoded(encoding, 3))
    batches = [encoding._next() for _ in range(3)]
    for number, portions in reversed(list(enumerate(batches))):
        encoding._encode(portions, encoding.stages[0])
        portions[0].is_done = True
        taken = [entry.id for _, entries in encoding.take() for entry in entries]
        assert taken == ([] if number else ["0-0", "0-1", "0-2"])
    assert encoding.num_records == 0
