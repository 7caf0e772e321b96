"""The first commands of a new user, as README.md prints them, on a cluster of one broker with its defaults."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.brokers import RealKafka, create_topics, log_ranges
from tests.worker_process import ROOT

pytestmark = [pytest.mark.acceptance, pytest.mark.real_kafka, pytest.mark.timeout(900)]
TOPICS = ("items", "events", "item-vectors", "user-vectors", "dead-letters", "item-state", "user-state")


@pytest.fixture(scope="module")
def fresh_kafka(own_kafka_allowed: None) -> Iterator[RealKafka]:
    """Nobody has used it."""
    with RealKafka() as kafka:
        yield kafka


def printed(heading: str) -> list[str]:
    """The commands of the first block under a heading of README.md."""
    text = (ROOT / "README.md").read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    block = re.search(r"(?:^    .*\n)+", text, re.M)
    assert block, heading
    return [line.strip() for line in block[0].splitlines()]


class Shell:
    """Runs `align-worker …` in a directory of its own, as somebody who has set nothing."""

    def __init__(self, directory: Path, kafka: RealKafka) -> None:
        self._directory, self._kafka = directory, kafka

    def start(self, command: str, log: Path | None = None) -> subprocess.Popen[str]:
        program, *words = shlex.split(command.replace("broker:9092", self._kafka.bootstrap_servers))
        assert program == "align-worker"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ALIGN_")}
        # Another worker may be on this machine, and it has few cores.
        environment |= {"PYTHONPATH": str(ROOT), "ALIGN_HTTP__PORT": "0", "ALIGN_THREADS": "1"}
        with contextlib.ExitStack() as stack:
            return subprocess.Popen(
                [sys.executable, "-m", "worker", *words],
                cwd=self._directory,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if log is None else stack.enter_context(log.open("w")),
            )

    def run(self, command: str) -> tuple[int, str, str]:
        process = self.start(command)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err


@pytest.fixture(scope="module")
def shell(fresh_kafka: RealKafka, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("home"), fresh_kafka)


def test_the_first_commands_work_as_printed(shell: Shell, tmp_path: Path) -> None:
    *before, run = printed("Run it")
    assert [command.split()[1] for command in (*before, run)] == ["space", "topics", "run"]
    for command in before:
        code, out, err = shell.run(command)
        assert code == 0, f"{command}\n{out}{err}"
    check = before[-1].replace("topics create", "topics check")
    assert shell.run(check)[:2] == (0, "topics are usable\n")
    log = tmp_path / "log"
    worker = shell.start(run, log)
    try:
        wait_until(lambda: worker.poll() is not None or is_ready(log.read_text()))
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0, log.read_text()
        assert not re.search(r'"level": "(error|critical)"|"topic_warning"', log.read_text()), log.read_text()
    finally:
        worker.kill()
        worker.communicate()


def is_ready(log: str) -> bool:
    address = re.search(r"status at (http://[^\s\"]+)", log)
    if address is None:
        return False
    try:
        with urllib.request.urlopen(f"{address[1]}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def wait_until(happened: Callable[[], bool], timeout_s: float = 300.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def one_line(told: tuple[int, str, str], code: int) -> str:
    """What a command that fails tells: one short line."""
    assert told[0] == code, told
    assert told[2].count("\n") == 1
    assert len(told[2]) < 600
    return told[2]


FLAGS = "--kafka.bootstrap_servers broker:9092"


def test_more_copies_than_brokers_make_no_topic(shell: Shell, fresh_kafka: RealKafka) -> None:
    named = " ".join(f"--topics.{name.replace('-', '_')} none-{name}" for name in TOPICS)
    told = shell.run(f"align-worker topics create --replication 3 {FLAGS} {named}")
    assert one_line(told, 4) == (
        "align-worker: 3 replicas need 3 brokers, there is 1: give --replication 1, or leave it out\n"
    )
    options = {"bootstrap_servers": fresh_kafka.bootstrap_servers}
    assert not any(log_ranges(options, f"none-{name}") for name in TOPICS)


@pytest.mark.parametrize(
    ("flags", "code", "cause"),
    [
        ("--topics.items 'a b'", 2, "topics.items: 'a b' cannot be the name of a topic"),
        ("--partitions 1000000 " + " ".join(f"--topics.{n.replace('-', '_')} many-{n}" for n in TOPICS), 4,
         "a policy of the cluster forbids it (Excessively large number of partitions"),
        ("--kafka.bootstrap_servers localhost:1 --kafka.connect_timeout_s 1", 6, "nothing listens at localhost:1"),
        ("--kafka.bootstrap_servers no-such-host.invalid:9092 --kafka.connect_timeout_s 1", 6,
         "the name no-such-host.invalid cannot be resolved"),
        ("--kafka.bootstrap_servers PLAINTEXT://broker:9092", 2, "is a URL"),
    ],
    ids=["a name that is none", "too many partitions", "no broker", "no host", "a URL"],
)  # fmt: skip
def test_topics_that_cannot_be_made_are_told_with_the_cause(shell: Shell, flags: str, code: int, cause: str) -> None:
    out = shell.run(f"align-worker topics create {FLAGS} {flags}")
    last = out[0], out[1], out[2].splitlines(keepends=True)[-1]  # before it: that it waits, and why
    assert cause in one_line(last, code)


def test_topics_made_with_the_defaults_of_the_cluster_are_told_and_set_right(
    shell: Shell, fresh_kafka: RealKafka
) -> None:
    options = {"bootstrap_servers": fresh_kafka.bootstrap_servers}
    create_topics(options, {f"plain-{name}": 2 for name in TOPICS})
    named = " ".join(f"--topics.{name.replace('-', '_')} plain-{name}" for name in TOPICS)
    check = f"align-worker topics check --roles items,users {FLAGS} {named}"
    code, _, err = shell.run(check)
    assert code == 4
    for name in ("item-vectors", "item-state", "user-vectors", "user-state"):
        assert f"topic 'plain-{name}' has cleanup.policy=delete: what it holds of that which does not change is" in err
        assert f"--entity-name plain-{name} --add-config cleanup.policy=compact`" in err
    assert "topic 'plain-items' keeps items for 7 days" in err
    assert "topic 'plain-events' keeps events for 7 days, and histories reach back 30 days" in err
    code, out, err = shell.run(f"{check} --fix")
    assert (code, err) == (0, "")
    assert "set plain-item-state: cleanup.policy=compact, max.message.bytes=4259840\n" in out
    assert shell.run(check) == (0, "topics are usable\n", "")


def test_existing_topics_that_do_not_fit_together_are_told_before_any_is_made(
    shell: Shell, fresh_kafka: RealKafka
) -> None:
    options = {"bootstrap_servers": fresh_kafka.bootstrap_servers}
    create_topics(options, {"odd-items": 4, "odd-item-vectors": 2})
    told = shell.run(f"align-worker topics create {FLAGS} --topics.items odd-items "
                     "--topics.item_vectors odd-item-vectors --topics.item_state odd-item-state")  # fmt: skip
    line = one_line(told, 4)
    assert "topic 'odd-item-vectors' has 2 partitions, 'odd-items' has 4" in line
    assert "--alter --topic odd-item-vectors --partitions 4`" in line
    assert not log_ranges(options, "odd-item-state")
