"""Items in, vectors out: what a user of the two topics relies on."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from schemas import ItemVector, decode
from tests.brokers import Outgoing
from tests.integration.stream import DIMS, SPACE_DIM, Stream, item, names
from tests.integration.worker_thread import WorkerThread

NUM_ITEMS = 300


def test_a_catalogue_goes_in_and_its_vectors_come_out(stream: Stream) -> None:
    catalogue = list(names(NUM_ITEMS))
    stream.feed_items(catalogue)
    with WorkerThread(stream.settings()) as worker:
        stream.wait_committed(worker)
        worker.until(lambda: worker.items.accounting.in_flight == 0)
        verdict = stream.verdict([worker.metrics_url])
    assert verdict.ok, verdict.explain()
    assert (verdict.counts["published"], verdict.counts["duplicates"]) == (NUM_ITEMS, 0)

    inputs = {(record.partition, record.offset): record for record in stream.input_records()}
    outputs = stream.output_records()
    assert Counter(record.key.decode() for record in outputs) == Counter(catalogue)
    for record in outputs:
        vector = decode(ItemVector, record.value)
        source = inputs[record.partition, vector.source_offset or 0]
        assert record.key == source.key == vector.item_id.encode()
        assert (vector.revision, vector.event_time_ms) == (1, 1_000)
        assert vector.space_id == stream.space.space_id
        assert vector.vector.shape == (SPACE_DIM,)
        assert sorted(vector.modalities) == sorted(DIMS)
        assert np.linalg.norm(vector.vector.to_numpy().astype(np.float32)) == pytest.approx(1, abs=1e-3)
    assert stream.commits() == stream.ends()


def test_newer_revisions_win_and_deletes_become_tombstones(stream: Stream) -> None:
    catalogue = list(names(50))
    stream.feed_items(catalogue, revision=2)
    with WorkerThread(stream.settings()) as worker:
        stream.wait_committed(worker)
        stream.feed_items(catalogue[:20], revision=1)
        stream.feed_items(catalogue[10:30], revision=3)
        stream.feed(stream.delete(name) for name in catalogue[25:40])
        stream.feed_items(catalogue[35:40], revision=1)  # a new life
        stream.wait_committed(worker)
        worker.until(lambda: worker.items.accounting.in_flight == 0)
        verdict = stream.verdict([worker.metrics_url])
        accounting = worker.items.accounting
    assert verdict.ok, verdict.explain()
    assert verdict.counts["tombstones"] >= 10
    assert accounting.consumed == 50 + 20 + 20 + 15 + 5
    assert accounting.consumed == accounting.published + accounting.superseded
    final = dict(stream.published())
    assert final == {
        name: (2 if n < 10 else 3 if n < 25 else None if n < 35 else 1 if n < 40 else 2)
        for n, name in enumerate(catalogue)
    }


def test_compressed_inputs_are_read(stream: Stream) -> None:
    codecs = ("gzip", "lz4", "zstd", "snappy")
    for codec in codecs:
        stream.feed_items(names(40, codec), compression_type=codec)
    with WorkerThread(stream.settings()) as worker:
        stream.wait_committed(worker)
    assert Counter(stream.published()) == Counter((name, 1) for codec in codecs for name in names(40, codec))


def test_trace_context_is_carried_to_every_kind_of_output(stream: Stream) -> None:
    trace = [("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), ("tracestate", b"v=1")]
    private = ("authorization", b"not for readers of the output")
    stream.feed(
        [
            stream.upsert("vector", headers=[*trace, private]),
            stream.delete("tombstone", headers=[private, *trace]),
            stream.record("letter", b"\xc1", headers=[private, *trace]),
            stream.upsert("untraced"),
        ]
    )
    with WorkerThread(stream.settings()) as worker:
        stream.wait_committed(worker)
    outputs = {record.key: list(record.headers) for record in stream.output_records()}
    offset = next(record.offset for record in stream.input_records() if record.key == b"tombstone")
    assert outputs == {
        b"vector": trace,
        b"tombstone": [*trace, ("align-source-offset", b"%d" % offset)],
        b"untraced": [],
    }
    (letter,) = stream.letter_records()
    assert list(letter.headers) == trace
    assert stream.dead_letters()[0].headers == (private, *trace)


def test_an_item_in_another_partition_than_the_hash_of_its_key_stays_there(stream: Stream) -> None:
    """Producers choose their own partitioner; outputs follow the input, or their order would be lost."""
    stream.feed(Outgoing(stream.items, b"same", item("same", n + 1), n % 2) for n in range(6))
    with WorkerThread(stream.settings()) as worker:
        stream.wait_committed(worker)
    newest = {record.partition: decode(ItemVector, record.value).revision for record in stream.output_records()}
    assert newest == {0: 5, 1: 6}
