"""worker/sink/README.md does what it prints."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import psycopg
import pytest

from tests.brokers.broker import embedded
from tests.stores.postgres import Postgres
from tests.worker_process import ROOT, WorkerProcess
from worker.kafka.embedded import EmbeddedBroker

pytestmark = [pytest.mark.acceptance, pytest.mark.embedded]
PAGE = (ROOT / "worker" / "sink" / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as started:
        yield started


def block(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def printed_after(query: str) -> list[str]:
    """The indented lines behind a block."""
    found = re.search(r"```\n\n((?:    .*\n)+)", PAGE[PAGE.index(query) :])
    assert found
    return [line.strip() for line in found[1].splitlines()]


def test_what_is_sent_is_found_as_printed(postgres: Postgres) -> None:
    with EmbeddedBroker() as started:
        broker = embedded(started)
        broker.create_topics({"item-vectors": 2, "dead-letters": 1})
        (code,) = block("python")
        asked = tuple(broker.options["api_version"])
        exec(code.replace('"broker:9092"', f'"{broker.bootstrap_servers}", api_version={asked}'), {})
        (line,) = [each.strip() for each in PAGE.splitlines() if each.startswith("    align-worker sink")]
        line = line.replace("broker:9092", broker.bootstrap_servers)
        line = line.replace("postgresql://postgres@database/postgres", postgres.url)
        _, *words = shlex.split(line)
        with WorkerProcess({"kafka.api_version": asked}, command=words) as sink:
            assert sink.wait(120) == 0, sink.stderr
    queries = block("sql")
    assert len(queries) == 2
    with psycopg.connect(postgres.url) as connection:
        for query in queries:
            found = [" | ".join(map(str, row)) for row in connection.execute(query).fetchall()]  # type: ignore[arg-type]
            assert found == printed_after(query)
