"""Parts of the worker that need no Kafka, timed by themselves."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from schemas import NewItem, decode
from tests.bench.progress import Steady, machine_cpu_s
from tests.bench.workload import BATCH, Items, item_id
from tests.fakes import FakeRecord
from worker.align import AlignRuntime, Contract, Space
from worker.process import service
from worker.settings import Settings
from worker.stages.decode import ItemDecoder

PART_SECONDS = 6.0


def space_of(settings: Settings) -> Space:
    assert settings.space.path is not None
    return Space.load(settings.space.path)


def runtime_of(settings: Settings) -> AlignRuntime:
    runtime = AlignRuntime(
        space_of(settings),
        device=settings.device,
        dtype=settings.dtype,
        threads=settings.threads,
        max_batch=settings.batch.max_records,
    )
    runtime.warm_up()
    return runtime


def calm_interpreter() -> None:
    """What `Service` does for the whole process. Call it once all is loaded."""
    sys.setswitchinterval(service.SWITCH_INTERVAL_S)
    service._calm_garbage_collector()


def model(settings: Settings) -> dict[str, float]:
    """`AlignRuntime.embed` on batches of 512, as the compute thread calls it."""
    runtime = runtime_of(settings)
    features = [decode(NewItem, value).features for value in _values()]
    return _timed(lambda: runtime.embed(features))


def decoding(settings: Settings) -> dict[str, float]:
    """The worker's decoder on polls of 512."""
    decoder = ItemDecoder(Contract(space_of(settings).spec))
    records = [FakeRecord(key=item_id(n).encode(), value=value, offset=n) for n, value in enumerate(_values())]
    return _timed(lambda: decoder.decode(records))


def _values() -> list[bytes]:
    items = Items()
    return [items.message(number)[1] for number in range(BATCH)]


def _timed(work: Callable[[], object]) -> dict[str, float]:
    for _ in range(3):
        work()
    calm_interpreter()
    num_items, started, cpu, machine = 0, time.monotonic(), time.process_time(), machine_cpu_s()
    while (seconds := time.monotonic() - started) < PART_SECONDS:
        work()
        num_items += BATCH
    cpu_s = time.process_time() - cpu
    return Steady(
        items_per_s=num_items / seconds,
        cpu_us_per_item=cpu_s / num_items * 1e6,
        cores=cpu_s / seconds,
        broker_us_per_item=0.0,
        others_cores=(machine_cpu_s() - machine - cpu_s) / seconds,
    )._asdict()
