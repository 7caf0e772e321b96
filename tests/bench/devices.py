"""Does a worker publish the same on a GPU as on a CPU?

    python -m tests.bench.devices SPACE --items items.msgpack --items parts.msgpack --events events.msgpack

`SPACE` and `parts.msgpack` are what `align-worker train` wrote (`tests.bench.training --out DIR` keeps them). For each
device and dtype the real worker, both roles, reads the items and then the events to their end from an embedded broker
of its own, so that nothing depends on timing. The newest vector of each item and each user, in float32, is compared
with that of the first run; and the lists of 20 items that the vectors make for the users.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from confluent_kafka import Message
from numpy.typing import NDArray

from schemas import ItemVector, UserVector, decode, encode
from tests.acceptance.reader import TopicReader
from tests.bench.host import host_line
from tests.brokers import Broker, Outgoing, log_ranges, produce
from tests.brokers.broker import embedded
from tests.worker_process import WorkerProcess, in_group
from worker.data.files import read_events, read_items
from worker.kafka.embedded import EmbeddedBroker

NUM_PARTITIONS = 16
"""The embedded broker keeps 5 MB of each."""
TOPICS = {
    name: name.replace("_", "-")
    for name in ("items", "item_vectors", "item_state", "events", "user_vectors", "user_state", "dead_letters")
}
K = 20
CATCH_UP_S, READER_S = 300.0, 60.0

Matrix = NDArray[np.float32]


class Newest(TopicReader):
    """The newest vector of each key. Reads along with the worker: the broker does not keep all."""

    def __init__(self, broker: Broker, topic: str, kind: type[ItemVector] | type[UserVector]) -> None:
        super().__init__(broker.bootstrap_servers, topic, NUM_PARTITIONS)
        self.messages: dict[str, Any] = {}
        self._broker, self._topic, self._kind = broker, topic, kind
        self._next: dict[int, int] = {}

    def take(self, record: Message, value: Any, at_ms: float) -> None:
        if record.error() is None:
            self._next[record.partition() or 0] = (record.offset() or 0) + 1
            self.messages[(record.key() or b"").decode()] = decode(self._kind, value)

    def wait(self) -> None:
        """Until all that is in the topic has been read."""
        ends = {partition: log.end for partition, log in log_ranges(self._broker.options, self._topic).items()}
        deadline = time.monotonic() + READER_S
        while any(self._next.get(partition, 0) < end for partition, end in ends.items()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._topic}: not read to its end within {READER_S:g} s")
            time.sleep(0.05)


class Published(NamedTuple):
    """What one worker published."""

    items: dict[str, Any]
    users: dict[str, Any]
    device: str
    """As its log says."""
    seconds: float
    """From the start of the process to its end."""


def published(space: Path, device: str, dtype: str, inputs: Sequence[Outgoing]) -> Published:
    """Raises `AssertionError` if the worker fails, or something becomes a dead letter."""
    with ExitStack() as stack:
        broker = embedded(stack.enter_context(EmbeddedBroker()))
        broker.create_topics(dict.fromkeys(TOPICS.values(), NUM_PARTITIONS))
        produce(broker.options, inputs)
        items = stack.enter_context(Newest(broker, TOPICS["item_vectors"], ItemVector))
        users = stack.enter_context(Newest(broker, TOPICS["user_vectors"], UserVector))
        settings = {
            **in_group("kafka", broker.client_settings),
            **in_group("topics", TOPICS),
            "roles": "items,users",
            "space.path": space.resolve(),
            "device": device,
            "dtype": dtype,
            "publish.vector_dtype": "f4",
            "users.table_dtype": "float32",
        }
        started = time.monotonic()
        with WorkerProcess(settings, command=("run", "--until-caught-up")) as worker:
            code = worker.wait(CATCH_UP_S)
            seconds = time.monotonic() - started
            assert code == 0, worker.log_tail()
            report = worker.logged("warm_up")[-1]["report"]
        letters = sum(log.end for log in log_ranges(broker.options, TOPICS["dead_letters"]).values())
        assert letters == 0, f"{letters} dead letters"
        items.wait()
        users.wait()
        active = f"{report['device']} ({report['device_name']}) in {report['dtype']}"
        return Published(items.messages, users.messages, active, seconds)


def inputs_of(item_files: Sequence[Path], event_files: Sequence[Path]) -> Iterator[Outgoing]:
    for path in item_files:
        for item in read_items(path):
            yield Outgoing(TOPICS["items"], item.item_id.encode(), encode(item))
    for path in event_files:
        for event in read_events(path):
            yield Outgoing(TOPICS["events"], event.user_id.encode(), encode(event))


def matrix(messages: dict[str, Any]) -> Matrix:
    """A row per key, in order of the keys."""
    return np.stack([messages[key].vector.to_numpy().astype(np.float32) for key in sorted(messages)])


def lists(run: Published) -> NDArray[np.int64]:
    """For each user the items with the greatest dot product and prior."""
    priors_I = torch.tensor([run.items[key].prior or 0.0 for key in sorted(run.items)])
    scores_UI = torch.from_numpy(matrix(run.users)) @ torch.from_numpy(matrix(run.items)).T + priors_I
    found: NDArray[np.int64] = scores_UI.topk(K).indices.numpy()
    return found


def cosines(one_ND: Matrix, other_ND: Matrix) -> NDArray[np.float64]:
    """`[N]`, to the last digits of float64."""
    products_N = np.einsum("nd,nd->n", one_ND, other_ND, dtype=np.float64)
    lengths_N = [np.linalg.norm(each.astype(np.float64), axis=1) for each in (one_ND, other_ND)]
    found: NDArray[np.float64] = products_N / lengths_N[0] / lengths_N[1]
    return found


def compared(run: Published, first: Published) -> list[str]:
    """Raises `AssertionError` if one has an item or a user that the other has not."""
    found = []
    for mine, theirs in ((run.items, first.items), (run.users, first.users)):
        assert mine.keys() == theirs.keys(), "not the same keys"
        one, other = matrix(mine), matrix(theirs)
        found += [f"{np.abs(one - other).max():.1e}", f"{1 - cosines(one, other).min():.1e}"]
    pairs = zip(lists(run), lists(first), strict=True)
    shared = np.mean([len(set(one) & set(other)) / K for one, other in pairs])
    return [*found, f"{shared:.4f}"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", type=Path)
    parser.add_argument("--items", type=Path, action="append", required=True)
    parser.add_argument("--events", type=Path, action="append", required=True)
    parser.add_argument(
        "--runs",
        default="cpu:float32,cuda:float32,cuda:bfloat16,cuda:float16",
        help="devices with dtypes, separated by commas (default: %(default)s)",
    )
    given = parser.parse_args(arguments)
    print(host_line(), flush=True)
    inputs = list(inputs_of(given.items, given.events))
    first: Published | None = None
    for name in given.runs.split(","):
        device, _, dtype = name.partition(":")
        run = published(given.space, device, dtype or "auto", inputs)
        first = first or run
        items, items_cosine, users, users_cosine, shared = compared(run, first)
        print(
            f"{name} on {run.device}: {len(run.items):,} items, {len(run.users):,} users in {run.seconds:.1f} s; "
            f"from the first run items differ by {items} (1 - cosine {items_cosine}), users by {users} "
            f"({users_cosine}); of the lists of {K}, {shared} the same",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
