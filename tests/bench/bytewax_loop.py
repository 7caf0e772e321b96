"""What a user of Bytewax would write instead of the worker, with this project's codec and model as a library.

Bytewax is no dependency of the project: `pip install bytewax`. Its Kafka source joins no group and commits nothing, and
without its recovery store, which is left out here, a restart begins anew.
"""

from __future__ import annotations

import signal
import threading
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

from tests.bench.embedding import embedding
from tests.bench.workload import BATCH
from worker.settings import Settings

WAIT = timedelta(milliseconds=50)


def is_installed() -> bool:
    return find_spec("bytewax") is not None


def bytewax(settings: Settings, stop: threading.Event) -> None:
    """`collect(512, 50 ms)` per partition → decode → fuse → sink. Ends with SIGTERM, and not with `stop`: the dataflow
    does not return while there may be input."""
    import bytewax.operators as op  # type: ignore[import-not-found,unused-ignore]
    from bytewax._bytewax import cli_main  # type: ignore[import-not-found,unused-ignore]
    from bytewax.connectors.kafka import (  # type: ignore[import-not-found,unused-ignore]
        KafkaSink,
        KafkaSinkMessage,
        KafkaSource,
    )
    from bytewax.dataflow import Dataflow  # type: ignore[import-not-found,unused-ignore]

    outputs = embedding(settings, lambda record: (record.value, record.offset))

    def vectors(batch: tuple[str, list[Any]]) -> list[Any]:
        records = batch[1]
        return [KafkaSinkMessage(record.key, value) for record, value in zip(records, outputs(records), strict=True)]

    servers, topics = settings.kafka.bootstrap_servers.split(","), settings.topics
    flow = Dataflow("bench")
    records = op.input("items", flow, KafkaSource(servers, [topics.items], batch_size=BATCH))
    keyed = op.key_on("partition", records, lambda record: str(record.partition))
    batches = op.collect("batch", keyed, WAIT, BATCH)
    config = {"linger.ms": str(settings.kafka.linger_ms), "batch.size": str(settings.kafka.produce_batch_bytes)}
    op.output("vectors", op.flat_map("fuse", batches, vectors), KafkaSink(servers, topics.item_vectors, config))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cli_main(flow)
