"""What the worker runs out of: room on the disk, and memory on the device. It says so, and loses nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.brokers import Broker
from tests.integration.stream import Stream, names
from tests.integration.worker_thread import WorkerThread
from tests.worker_process import WorkerProcess
from worker.align.graph import GraphedModel
from worker.errors import StateError, SystemicError

NUM_ITEMS = 3_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KB, less than the items need."""
    path = tmp_path / "small"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", path], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"may not mount: {mounted.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", path], check=True)


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
@pytest.mark.real_kafka
def test_a_full_disk_ends_the_process_with_the_setting_and_loses_nothing(
    make_stream: Callable[..., Stream], real_kafka: Broker, small_disk: Path, tmp_path: Path, delivery: str
) -> None:
    stream = make_stream(real_kafka)
    settings = stream.settings({"delivery": delivery})
    stream.feed_items(names(NUM_ITEMS))
    with WorkerProcess({**settings, "state.dir": small_disk}) as cramped:
        assert cramped.wait() == StateError.exit_code
        message = cramped.log_tail(1)
        assert f"state.dir: the store in {small_disk}" in message
        assert "the disk is full: make room there, or set state.dir to a larger volume" in message
    with WorkerProcess({**settings, "state.dir": tmp_path / "large"}) as worker:
        worker.wait_ready()
        stream.wait_committed()
        worker.wait_until(lambda: worker.metric("align_state_values", topic=stream.items) == NUM_ITEMS, name="complete")
        verdict = stream.verdict([worker.url("/metrics")])
    assert verdict.ok, verdict.explain()
    assert {name for name, _ in stream.published()} == set(names(NUM_ITEMS))


def test_a_device_without_memory_for_a_batch_takes_it_in_parts(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    with WorkerThread(stream.settings()) as worker:
        worker.wait_ready()
        leave_memory_for(5, monkeypatch)
        stream.feed_items(names(300))
        stream.wait_committed(worker)
        assert worker.metric("align_out_of_memory_total") > 0
        verdict = stream.verdict([worker.metrics_url])
    assert verdict.ok, verdict.explain()
    assert stream.dead_letters() == []
    assert {name for name, _ in stream.published()} == set(names(300))


def test_a_device_without_memory_for_a_single_item_ends_the_worker_and_loses_nothing(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as shortage, WorkerThread(stream.settings()) as worker:
        worker.wait_ready()
        leave_memory_for(0, shortage)
        stream.feed_items(names(300))
        error = worker.failure()
    assert isinstance(error, SystemicError)
    assert "no memory for a batch of one" in error.one_line()
    assert "set device or lower dtype" in error.one_line()
    with WorkerThread(stream.settings()) as worker:
        stream.wait_committed(worker)
        verdict = stream.verdict()
    assert verdict.ok, verdict.explain()
    assert stream.dead_letters() == []
    assert {name for name, _ in stream.published()} == set(names(300))


def leave_memory_for(num_items: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the model run out of memory for batches of more items, as it does on a GPU."""
    compute = GraphedModel.__call__

    def limited(model: GraphedModel, batch: object) -> object:
        if len(batch.modalities) > num_items:  # type: ignore[attr-defined]
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return compute(model, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(GraphedModel, "__call__", limited)
