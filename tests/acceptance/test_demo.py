"""The first thing that anybody runs: `align-worker demo`, as a process, from its output to Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from schemas import Feature, ItemVector, NewItem, decode, encode
from tests.worker_process import ROOT
from worker.settings import ENV_PREFIX

pytestmark = [pytest.mark.acceptance, pytest.mark.embedded]

NUM_ITEMS = 2_000
PATIENCE_S = 120.0


def hear_ctrl_c() -> None:
    """Undo what a shell does to the processes it starts in the background, should we be one of them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Demo:
    """The running command, with its outputs in files."""

    def __init__(self, directory: Path, arguments: Sequence[str]) -> None:
        self._stdout, self._stderr = directory / "stdout", directory / "stderr"
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "worker", "demo", *arguments],
                cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
                preexec_fn=hear_ctrl_c,
            )  # fmt: skip

    @property
    def stdout(self) -> str:
        return self._stdout.read_text()

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    def wait_for(self, pattern: str) -> re.Match[str]:
        deadline = time.monotonic() + PATIENCE_S
        while (found := re.search(pattern, self.stdout)) is None:
            assert self.process.poll() is None, self.stderr
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.stdout}"
            time.sleep(0.05)
        return found


@contextmanager
def demo(directory: Path, *arguments: str) -> Iterator[Demo]:
    running = Demo(directory, arguments)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()


def test_it_shows_speed_latency_and_structure_and_nothing_else(tmp_path: Path) -> None:
    with demo(tmp_path, "--items", str(NUM_ITEMS)) as running:
        assert running.process.wait(PATIENCE_S) == 0, running.stderr
        shown = running.stdout
        assert running.stderr == ""
    print(shown)
    rate = float(re.search(r"([\d,]+) items/s over", shown)[1].replace(",", ""))  # type: ignore[index]
    latency = re.search(r"readable vector: p50 (\d+) ms, p99 (\d+) ms", shown)
    share = re.search(r"of the 10 nearest, (\d+)% share the item's theme; by chance it would be (\d+)%", shown)
    assert latency is not None
    assert share is not None
    assert rate > 100
    assert 0 < int(latency[1]) <= int(latency[2])
    assert int(share[1]) > 50 > int(share[2])
    assert len(re.findall(r"^      0\.\d{3}  ", shown, re.MULTILINE)) >= 10
    check_users(shown)
    for role, at_least in (("items", NUM_ITEMS), ("users", 10_000)):
        account = re.search(rf"{role}: (\d+) consumed = (\d+) published( \+ \d+ [a-z]+([ -][a-z]+)?)+", shown)
        assert account is not None
        consumed, *parts = map(int, re.findall(r"\d+", account[0]))
        assert consumed == sum(parts)
        assert consumed > at_least
        assert parts[-1] == 0, "the books are closed when nothing is in flight any more"


def check_users(shown: str) -> None:
    """Events flow, vectors move, and new items find their users."""
    rate = float(re.search(r"([\d,]+) events/s over", shown)[1].replace(",", ""))  # type: ignore[index]
    assert rate > 100
    p50, p99 = figures(r"event → readable user vector: p50 (\d+) ms, p99 (\d+) ms", shown)
    assert 0 < p50 <= p99
    recommended, any_item, best = figures(
        r"a cosine of (\S+); any item with (\S+), the 10 that suit best with (\S+)\n", shown
    )
    assert any_item + 0.3 < recommended < best
    before, after = re.findall(r"^      the first 10: (.*)$", shown, re.MULTILINE)
    assert re.match(r"(10|9|8) city cycling", before)
    assert "jazz piano" in after
    assert "jazz piano" not in before
    (cosine,) = figures(r"your vector has it \(cosine to before (\S+)\)", shown)
    assert 0 < cosine < 0.95
    middle, most, told, everybody = figures(
        r"users known: (\d+) ms in the middle, (\d+) ms at most; (\d+)% of them truly like .*, of all users (\d+)%",
        shown,
    )
    assert 0 < middle <= most
    assert middle < 1_000
    assert told > 50 > 30 > everybody
    (waited,) = figures(r"its user has a vector (\d+) ms after the item came", shown)
    assert waited > 0


def figures(pattern: str, shown: str) -> list[float]:
    found = re.search(pattern, shown)
    assert found is not None, f"no {pattern!r} in {shown}"
    return [float(each) for each in found.groups()]


def test_an_outside_producer_can_attach_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    with demo(tmp_path, "--items", "200", "--keep", "--roles", "items") as running:
        servers = running.wait_for(r"bootstrap servers +(\S+)\n")[1]
        topic = running.wait_for(r"topics +([\w-]+) and")[1]
        running.wait_for("Ctrl-C ends it")
        vector = send_and_await(servers, topic)
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(PATIENCE_S) == 0
        assert running.stderr == ""
        assert "users" not in running.stdout
        books = re.search(r"^items: (\d+) consumed = (\d+) published .* \+ 0 in flight$", running.stdout, re.MULTILINE)
        assert books is not None
        assert int(books[1]) == int(books[2]) > 200, "the item from outside is in the books, which come last"
    assert (vector.item_id, vector.revision, vector.modalities) == ("from-outside", 7, ("text",))
    assert np.linalg.norm(vector.vector.to_numpy().astype(np.float32)) == pytest.approx(1, abs=1e-3)


def send_and_await(servers: str, topic: str) -> ItemVector:
    """An item from librdkafka's producer, and its vector by librdkafka's consumer."""
    producer = Producer({"bootstrap.servers": servers, "partitioner": "murmur2_random", "log_level": 0})
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "outside", "log_level": 0})
    partitions = consumer.list_topics("item-vectors", timeout=10).topics["item-vectors"].partitions
    consumer.assign([TopicPartition("item-vectors", partition, 0) for partition in partitions])
    text = Feature.from_numpy(np.arange(384) / 384, encoder="synthetic-text")
    item = NewItem(item_id="from-outside", revision=7, event_time_ms=1, features={"text": text})
    producer.produce(topic, key=item.key, value=encode(item))
    producer.flush(30)
    deadline = time.monotonic() + PATIENCE_S
    try:
        while time.monotonic() < deadline:
            for record in consumer.consume(500, 0.2):
                if record.key() == item.key:
                    return decode(ItemVector, record.value() or b"")
        raise AssertionError("no vector came for the item from outside")
    finally:
        consumer.close()


def test_ctrl_c_in_the_middle_is_no_crash(tmp_path: Path) -> None:
    with demo(tmp_path, "--items", "1000000") as running:
        running.wait_for(r"items/s  p50")
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(PATIENCE_S) == 130
        assert running.stderr == ""
