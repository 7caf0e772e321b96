"""What does a second space cost beside the first, per item, and how fast is what is remembered brought into it?

    python -m tests.bench.two_spaces [--rounds 8] [--model light|transformer] [--json]

The worker's own steps on records in memory, in one thread, with real models on the CPU: decode, merge, batch, fuse,
write, pack, settle; once with the live space alone and once with two, alternating. What a client spends on fetching and
sending is left out: two spaces share the first, and have three records to send instead of two. Then the same items from
what is remembered into the next space alone, beside fusing and writing them in the live one. CPU time of the thread,
the fastest round of each.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from prometheus_client import CollectorRegistry

from tests.bench.host import host_line
from tests.bench.hot_path import Steps, item_records, pack, topics
from tests.bench.parts import calm_interpreter
from tests.bench.workload import BATCH, DIMS, MODELS, VECTOR_DIM
from worker.align import AlignRuntime, Contract, Space
from worker.align.command import create
from worker.kafka.batches import FetchedRecord
from worker.kafka.port import Commit
from worker.loop.ledger import Ledger
from worker.monitoring.metrics import Metrics
from worker.partitions.backfill import Backfill, NextNote, place_of
from worker.partitions.tenure import Tenure
from worker.process.service import ModelEmbedder
from worker.records import TopicPartition
from worker.roles.items import ItemFormat, ItemsRole
from worker.roles.next_space import NextItems, NextSpace
from worker.settings import Settings
from worker.stages.batch import MicroBatch
from worker.stages.batch_queue import BatchQueue
from worker.stages.fuse import fuse
from worker.stages.publish import Publisher, Unacknowledged
from worker.state import MemoryStore
from worker.state.overlay import StateOverlay

MODEL_STEPS = ("fuse", "write", "pack")


class Bench:
    def __init__(self, live: Space, following: Space) -> None:
        def embedder(space: Space) -> ModelEmbedder:
            runtime = AlignRuntime(space, device="cpu", dtype="float32", threads=1, max_batch=BATCH)
            runtime.warm_up()
            return ModelEmbedder(runtime, "f2")

        output = ItemFormat(topics("items"), live.space_id, "f2", VECTOR_DIM)
        self.role = ItemsRole(output, Contract(live.spec), embedder(live), keep_features=True)
        beside = embedder(following)
        moved = replace(topics("items"), outputs=f"item-vectors-{following.space_id}")
        self.next = NextSpace(
            ItemFormat(moved, following.space_id, "f2", VECTOR_DIM, is_next=True),
            NextItems(beside.of, beside.probe, Contract(following.spec)),
        )

    def one_round(self, polled: Sequence[Sequence[FetchedRecord]], *, is_two: bool) -> dict[str, float]:
        """CPU seconds by step, and of the backfill of the same items."""
        steps, role = Steps(), self.role
        metrics = Metrics(CollectorRegistry(), role.topics.inputs)
        self._ledger = Ledger(metrics, lambda: None)
        self._publisher = Publisher(role.output, None, Unacknowledged(10**9), lambda: None)
        tenure = Tenure(TopicPartition(role.topics.inputs, 0), Commit(0))
        tenure.overlay = StateOverlay(MemoryStore(), role.decode_state)
        if is_two:
            tenure.fill(self._backfill())
        queue = BatchQueue(Settings().batch)
        queue.set_backlog(True)
        for records in polled:
            with steps.step("decode"):
                decoded = role.decode(records)
            with steps.step("accept"):
                entries = role.accept(decoded.entries, tenure.overlay)
            with steps.step("batch"):
                tenure.consumed(records)
                self._ledger.consumed(len(records))
                queue.put(tenure, entries)
                batch = queue.take(0)
                assert batch is not None
            self._publish(batch, tenure, steps)
        if not is_two:
            self._bring(tenure, BatchQueue(Settings().batch), steps)
        return steps.seconds

    def _backfill(self) -> Backfill:
        return Backfill(self.next, NextNote(self.next.space_id), is_doubted=False)

    def _publish(self, batch: MicroBatch, tenure: Tenure, steps: Steps, prefix: str = "") -> None:
        with steps.step(f"{prefix}fuse"):
            fused = fuse(batch, self.role.embedder, lambda: None)
        with steps.step(f"{prefix}write"):
            outbound = self._publisher._outbound(fused.slices[0])
            assert outbound is not None
        with steps.step(f"{prefix}pack"):
            batches = pack(outbound)
        with steps.step(f"{prefix}settle"):
            fused.slices[0].read.written.expect(len(outbound), lambda: None)
            for each in batches:
                each._receipts.settle((0, None, None))
            for done in tenure.settle():
                self._ledger.finished(done)

    def _bring(self, tenure: Tenure, queue: BatchQueue, steps: Steps) -> None:
        """The same items into the next space, from what is remembered."""
        backfill = self._backfill()
        tenure.fill(backfill)
        overlay = tenure.overlay
        assert overlay is not None
        keys = overlay.keys()
        backfill.plan(sorted((place_of(key), key) for key in keys), {}, ())
        while backfill.num_left:
            with steps.step("backfill take"):
                taken = backfill.take(BATCH, overlay.is_settled)
                entries = [self.next.entry(each, backfill, 0, overlay) for each in taken]
                queue.put_behind(tenure, [each for each in entries if each is not None])
            while queue.num_behind:
                with steps.step("backfill take"):
                    batch = queue.take(0)
                assert batch is not None
                self._publish(batch, tenure, steps, "backfill ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--model", choices=MODELS, default="light")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory(prefix="align-bench-") as folder:
        spaces = [create(Path(folder, name), DIMS, VECTOR_DIM, fusion=MODELS[given.model], seed=seed)
                  for seed, name in enumerate(("live", "next"))]  # fmt: skip
        bench, polled = Bench(*spaces), item_records()
    calm_interpreter()
    num_records = sum(map(len, polled))
    best: dict[bool, dict[str, float]] = {}
    for number in range(given.rounds + 1):
        for is_two in (False, True):
            found = bench.one_round(polled, is_two=is_two)
            if number:
                before = best.setdefault(is_two, {})
                for name, seconds in found.items():
                    before[name] = min(seconds / num_records * 1e6, before.get(name, float("inf")))
            gc.collect()
    one, two = best[False], best[True]
    brought = {name.removeprefix("backfill "): one.pop(name) for name in list(one) if name.startswith("backfill")}
    live = sum(one[name] for name in MODEL_STEPS)
    figures = {
        "one": one,
        "two": two,
        "ratio": sum(two.values()) / sum(one.values()),
        "backfill": brought,
        "backfill_rate_to_model_and_publish": live / sum(brought.values()),
    }
    if given.json:
        print(json.dumps({"host": host_line(), "us": figures}))
        return
    print(
        f"host: {host_line()}\n{num_records} items, {given.model} model, fastest of {given.rounds} rounds, CPU µs each"
    )
    for name in one:
        print(f"{name:8} {one[name]:7.2f} {two[name]:7.2f} {brought.get(name, 0.0):7.2f}")
    print(f"{'sum':8} {sum(one.values()):7.2f} {sum(two.values()):7.2f} {sum(brought.values()):7.2f}")
    print(f"two spaces cost {figures['ratio']:.2f} times one; the backfill runs at "
          f"{figures['backfill_rate_to_model_and_publish']:.2f} of the rate of model and publish")  # fmt: skip


if __name__ == "__main__":
    main()
