"""A space, topics of their own, and the real process on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import Broker
from tests.integration.stream import DIMS, SPACE_DIM, Stream
from tests.worker_process import WorkerProcess, as_text
from worker.align import Space, command

StreamMaker = Callable[..., Stream]


@pytest.fixture(scope="session")
def space_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small space, which accepts the features of any encoder."""
    path = tmp_path_factory.mktemp("spaces") / "space"
    command.create(path, DIMS, dim=SPACE_DIM)
    return path


@pytest.fixture
def make_stream(topics: Mapping[str, str], space_path: Path) -> Iterator[StreamMaker]:
    """Makes a stream on a broker: its topics exist unless `create` is false."""
    made: list[Stream] = []

    def make(broker: Broker, num_partitions: int = 2, *, create: bool = True) -> Stream:
        stream = Stream(broker, topics, Space.load(space_path), str(space_path), num_partitions)
        made.append(stream)
        if create:
            stream.create_topics()
        return stream

    yield make
    for stream in made:
        stream.close()


def worker_on(
    stream: Stream, changes: Mapping[str, Any] | None = None, command: Sequence[str] = ("run",)
) -> WorkerProcess:
    """The process that works on a stream; not started yet."""
    settings = {name: as_text(value) for name, value in stream.settings(changes).items()}
    return WorkerProcess(settings, command=command)
