"""With the settings as shipped: what one killed worker costs the others, and what the group refuses.

The long form, ten kills: `python -m tests.acceptance.kills`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.conftest import StreamMaker
from tests.acceptance.kills import Cost, Plan, is_borne, longest_gap_s, run
from tests.brokers import RealKafka
from tests.brokers.broker import real
from tests.worker_process import WorkerProcess
from worker.settings import Settings


@pytest.mark.acceptance
@pytest.mark.real_kafka
@pytest.mark.timeout(300)
def test_a_worker_that_is_killed_and_started_again_stops_nobody_else(own_kafka_allowed: None, tmp_path: Path) -> None:
    (cost,), settings = run(Plan(kills=1), {}, tmp_path, print)
    assert cost.exits == 0, "somebody else ended"
    # The campaign measures how few seconds it costs; this much holds on a busy machine: nobody waits for a session.
    assert cost.foreign_s < settings.kafka.session_timeout_ms / 1000, cost


@pytest.mark.acceptance
@pytest.mark.real_kafka
@pytest.mark.timeout(120)
def test_a_session_that_the_broker_does_not_allow_is_refused_in_one_line(
    start_kafka: Callable[..., RealKafka], make_stream: StreamMaker
) -> None:
    kafka = start_kafka(properties={"group.max.session.timeout.ms": "20000"})
    stream = make_stream(real(kafka.bootstrap_servers))
    own = {"kafka.bootstrap_servers": kafka.bootstrap_servers, "kafka.group_id": stream.group}
    topics = {f"topics.{name}": topic for name, topic in stream.topics.items()}
    with WorkerProcess({**own, **topics, "space.path": stream.space_path}) as worker:
        assert worker.wait() == 2
    (line,) = [line for line in worker.stderr.splitlines() if line.startswith("align-worker:")]
    assert "kafka.session_timeout_ms=30000" in line
    assert "group.max.session.timeout.ms" in line


def test_the_longest_gap_counts_the_edges() -> None:
    arrivals = [(float(at_ms), 0) for at_ms in (900, 1_100, 1_200, 4_000, 9_000)]
    assert longest_gap_s(arrivals, 1_000, 5_000) == 2.8
    assert longest_gap_s(arrivals, 1_000, 8_000) == 4.0
    assert longest_gap_s([], 1_000, 8_000) == 7.0


def test_a_kill_may_cost_the_others_five_seconds_and_nobody_more_than_a_session() -> None:
    settings = Settings()
    assert is_borne(Cost(0, 5.0, 35.0), settings)
    assert not is_borne(Cost(1, 0.0, 0.0), settings)
    assert not is_borne(Cost(0, 5.1, 6.0), settings)
    assert not is_borne(Cost(0, 0.1, 35.1), settings)
