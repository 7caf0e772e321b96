"""Vectors of a topic in a real PostgreSQL with pgvector: the newest of each item, searchable, whatever happens."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from uuid import uuid4

import numpy as np
import psycopg
import pytest

from schemas import ItemVector, Tensor, encode
from tests.brokers import Outgoing
from tests.brokers.broker import embedded
from tests.integration.conftest import StreamMaker
from tests.integration.stream import Stream
from tests.stores.postgres import Postgres
from tests.worker_process import WorkerProcess
from worker.errors import ConfigError, StoreError
from worker.kafka.embedded import EmbeddedBroker
from worker.settings import SinkSettings
from worker.sink.pgvector import PgVector
from worker.sink.port import RowsRefusedError
from worker.sink.row import Collection, Place, Row

DIM = 4
IN_X = Collection("items", "x", DIM)
PATIENCE_S = 90.0


@pytest.fixture
def url(postgres: Postgres) -> str:
    """Of an empty database."""
    return postgres.create_database(f"test-{uuid4().hex}")


@pytest.fixture
def store(url: str) -> Iterator[PgVector]:
    made = PgVector(SinkSettings(url=url, columns={"price": "number", "category": "text", "tags": "tags"}))
    made.connect()
    made.prepare(IN_X)
    yield made
    made.close()


def query(url: str, text: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(text).fetchall()


def unit(number: float) -> np.ndarray:
    return np.array([np.cos(number), np.sin(number), 0, 0], np.float32)


def row(row_id: str, source: int, offset: int | None = None, number: float = 0.0, **attributes: Any) -> Row:
    place = Place("log", 0, source, source if offset is None else offset, source, source)
    return Row(row_id, place, IN_X, unit(number), 5, ("text",), 0.5, attributes)


def gone(row_id: str, source: int) -> Row:
    return Row(row_id, Place("log", 0, source, source, source), None)


def test_rows_are_found_by_nearness_and_by_attributes_with_an_index_for_it(store: PgVector, url: str) -> None:
    outcome = store.write(
        IN_X,
        [
            row(f"i{n}", n, number=n / 10, price=n * 1.5, category="odd" if n % 2 else "even", tags=["a"])
            for n in range(9)
        ],
    )
    assert outcome == (9, 0, 0)
    nearest = "SELECT item_id FROM item_vectors WHERE {} ORDER BY vector <=> '[1,0,0,0]' LIMIT 3"
    assert query(url, nearest.format("true")) == [("i0",), ("i1",), ("i2",)]
    assert query(url, nearest.format("price >= 3 AND category = 'odd'")) == [("i3",), ("i5",), ("i7",)]
    assert query(url, nearest.format("""attributes @> '{"category": "even"}' AND price > 0""")) == [
        ("i2",),
        ("i4",),
        ("i6",),
    ]
    assert query(url, "SELECT price, category, tags, prior, modalities FROM item_vectors WHERE item_id = 'i1'") == [
        (1.5, "odd", ["a"], 0.5, ["text"])
    ]
    assert indexes(url) == []
    assert store.tick(is_caught_up=False)
    settle(store)
    ((definition, is_valid),) = indexes(url)
    assert "vector_cosine_ops" in definition
    assert is_valid
    assert query(url, nearest.format("true")) == [("i0",), ("i1",), ("i2",)]
    assert store.write(IN_X, [row("i0", 99, number=3.0)]) == (1, 0, 0)
    assert query(url, nearest.format("true"))[0] == ("i1",)


def indexes(url: str) -> list[tuple[Any, ...]]:
    """Over vectors, and whether they can be used."""
    found = "SELECT pg_get_indexdef(indexrelid), indisvalid FROM pg_index"
    return query(url, f"SELECT * FROM ({found}) AS i WHERE pg_get_indexdef LIKE '%hnsw%'")


def settle(store: PgVector, patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not store.tick(is_caught_up=True):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_index_that_was_broken_off_is_made_anew_and_by_one_sink(store: PgVector, url: str) -> None:
    store.write(IN_X, [row(f"i{n}", n, number=n / 10) for n in range(50)])
    settle(store)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'item_vectors_x_cosine'::regclass"
        )
    stores = [PgVector(SinkSettings(url=url, index_memory_mb=32)) for _ in range(2)]
    for each in stores:
        each.connect()
        each.prepare(IN_X)
    deadline = time.monotonic() + PATIENCE_S
    while len([each for each in stores if each.tick(is_caught_up=True)]) < len(stores):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for each in stores:
        each.close()
    assert [is_valid for _, is_valid in indexes(url)] == [True]


def test_an_index_that_cannot_be_made_is_said_and_rows_are_written_all_the_same(store: PgVector, url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE item_vectors_x_cosine ()")
    with pytest.raises(StoreError, match=r"index item_vectors_x_cosine cannot be made: .* is not an index"):
        settle(store)
    assert store.write(IN_X, [row("a", 1)]) == (1, 0, 0)
    assert not store.tick(is_caught_up=True)


def test_an_attribute_of_another_type_leaves_its_column_empty_and_is_kept_beside(store: PgVector, url: str) -> None:
    store.write(IN_X, [row("a", 1, price="on request", category=7)])
    assert query(url, "SELECT price, category, attributes FROM item_vectors") == [
        (None, None, {"price": "on request", "category": 7})
    ]


def at(log: str, partition: int, source: int | None, offset: int, made_at_ms: int = 1, revision: int = 0) -> Row:
    return row("a", 5)._replace(place=Place(log, partition, source, offset, made_at_ms, revision))


ROWS = (
    ("older", row("a", 4), False),
    ("newer", row("a", 6), True),
    ("the same again", row("a", 5), False),
    ("the same input computed anew", row("a", 5, offset=6), True),
    ("of a writer that names no source, later in the log", at("log", 0, None, 9), True),
    ("of a writer that names no source, before", at("log", 0, None, 3), False),
    ("of another log, made later", at("new", 0, 5, 1, 9, 5), True),
    ("of another log, made before", at("new", 0, 5, 99, 1, 5), False),
    ("in another partition, of a greater revision", at("log", 1, 1, 1, 1, 6), True),
    ("in another partition, of a smaller one", at("log", 1, 99, 99, 99, 4), False),
    ("a newer deletion", gone("a", 6), True),
    ("an older deletion", gone("a", 4), False),
)


@pytest.mark.parametrize(("found", "counts"), [each[1:] for each in ROWS], ids=[each[0] for each in ROWS])
def test_the_table_decides_what_is_newer(store: PgVector, url: str, found: Row, counts: bool) -> None:
    store.write(IN_X, [row("a", 5, number=1.0)])
    outcome = store.write(IN_X, [found])
    assert (outcome.num_stale == 0) == counts
    kept = query(url, "SELECT log, log_partition, source_offset, log_offset FROM item_vectors_x")
    place = found.place if counts else row("a", 5).place
    assert kept == [(place.log, place.partition, place.source_offset, place.offset)]


def test_a_late_vector_cannot_bring_a_deleted_item_back_and_a_newer_one_can(store: PgVector, url: str) -> None:
    store.write(IN_X, [row("a", 1)])
    assert store.write(IN_X, [gone("a", 5), gone("never", 6)]) == (0, 2, 0)
    assert store.write(IN_X, [row("a", 3), row("never", 4)]) == (0, 0, 2)
    assert query(url, "SELECT item_id FROM item_vectors") == []
    assert store.write(IN_X, [row("a", 7)]) == (1, 0, 0)
    assert query(url, "SELECT item_id FROM item_vectors") == [("a",)]


def test_two_sinks_at_once_leave_the_newest(url: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    stores = [PgVector(SinkSettings(url=url)) for _ in range(2)]

    def run(number: int) -> None:
        stores[number].connect()
        stores[number].prepare(IN_X)
        for turn in range(20):
            stores[number].write(
                IN_X, [row(f"i{n}", 2 * turn + number) for n in (range(20) if turn % 2 else reversed(range(20)))]
            )

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, range(2)))
    assert query(url, "SELECT min(source_offset), max(source_offset), count(*) FROM item_vectors") == [(39, 39, 20)]
    for each in stores:
        each.close()


@pytest.mark.parametrize("row_id", ["nul\0", "a"])
def test_what_a_table_cannot_hold_is_refused_and_nothing_of_it_is_written(
    store: PgVector, url: str, row_id: str
) -> None:
    odd = row(row_id, 1, note="nul\0")
    with pytest.raises(RowsRefusedError):
        store.write(IN_X, [row("good", 1), odd])
    assert query(url, "SELECT count(*) FROM item_vectors") == [(0,)]
    assert store.write(IN_X, [row("good", 1)]) == (1, 0, 0)


def test_a_table_with_vectors_of_another_length_is_refused_by_name(store: PgVector) -> None:
    with pytest.raises(ConfigError, match="table item_vectors_x holds vectors of 4 dimensions, the topic vectors of 8"):
        store.prepare(Collection("items", "x", 8))


def test_a_table_of_somebody_else_with_such_a_name_is_left_alone(store: PgVector, url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE item_vectors_backup AS SELECT * FROM item_vectors_x")
    assert store.collections("items") == [IN_X]


def test_deletions_are_forgotten_when_nothing_can_come_late_any_more(url: str) -> None:
    store = PgVector(SinkSettings(url=url, keep_deleted_s=0))
    store.connect()
    store.prepare(IN_X)
    store.write(IN_X, [row("a", 1), gone("b", 2)])
    assert query(url, "SELECT item_id FROM item_vectors_x") == [("a",)]
    store.close()


# ---------------------------------------------------------------------- the process


@pytest.fixture
def stream(make_stream: StreamMaker, embedded_broker: EmbeddedBroker) -> Stream:
    return make_stream(embedded(embedded_broker))


def settings(stream: Stream, url: str, **more: Any) -> Mapping[str, Any]:
    chosen = {
        name: value for name, value in stream.settings().items() if name.startswith(("kafka.", "topics.", "http."))
    }
    return {**chosen, "sink.url": url, "commit.interval_ms": 100, "log.format": "text", **more}


def vector(stream: Stream, name: str, source: int, **attributes: Any) -> Outgoing:
    message = ItemVector(
        item_id=name, revision=source, event_time_ms=1, space_id="x", modalities=("text",), produced_at_ms=source,
        vector=Tensor(dtype="f4", shape=(DIM,), data=unit(source).tobytes()), source_offset=source,
        attributes=attributes,
    )  # fmt: skip
    return Outgoing(stream.vectors, name.encode(), encode(message), stream.partition_of(name.encode()))


def deletion(stream: Stream, name: str, source: int) -> Outgoing:
    header = ("align-source-offset", b"%d" % source)
    return Outgoing(stream.vectors, name.encode(), None, stream.partition_of(name.encode()), headers=[header])


def wait_for(condition: Callable[[], bool], sink: WorkerProcess) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, sink.log_tail()
        time.sleep(0.05)


def held(url: str) -> dict[str, int]:
    try:
        return dict(query(url, "SELECT item_id, source_offset FROM item_vectors"))  # type: ignore[arg-type]
    except psycopg.errors.UndefinedTable:
        return {}


def test_a_process_follows_the_topic_outlives_its_database_and_drains_on_sigterm(
    stream: Stream, postgres: Postgres, url: str
) -> None:
    stream.feed(vector(stream, f"i{n}", n, price=n) for n in range(50))
    with WorkerProcess(settings(stream, url), command=("sink", "pgvector")) as sink:
        wait_for(lambda: len(held(url)) == 50, sink)
        sink.wait_ready()
        postgres.kill()
        stream.feed([deletion(stream, "i0", 100), vector(stream, "i1", 101), vector(stream, "new", 102)])
        stream.feed([Outgoing(stream.vectors, b"bad", b"\xc1", 0)])
        wait_for(lambda: sink.metric("align_sink_failures_total") > 0, sink)
        postgres.start()
        expected = {**{f"i{n}": n for n in range(2, 50)}, "i1": 101, "new": 102}
        wait_for(lambda: held(url) == expected, sink)
        wait_for(lambda: len(stream.letter_records()) == 1, sink)
        sink.signal(signal.SIGTERM)
        assert sink.wait() == 0, sink.stderr


def test_until_caught_up_it_ends_with_0_and_a_second_run_changes_nothing(stream: Stream, url: str) -> None:
    stream.feed([*(vector(stream, f"i{n}", n) for n in range(30)), deletion(stream, "i3", 50)])
    for group in ("one", "another"):
        command = ("sink", "pgvector", "--until-caught-up")
        with WorkerProcess(
            settings(stream, url, **{"sink.group_id": f"{stream.group}-{group}"}), command=command
        ) as sink:
            assert sink.wait(PATIENCE_S) == 0, sink.stderr
            assert ("0 vectors written, 0 deleted" in sink.stderr) == (group == "another"), sink.stderr
        assert held(url) == {f"i{n}": n for n in range(30) if n != 3}


WRONG: tuple[tuple[Mapping[str, Any], str], ...] = (
    ({"sink.url": "postgresql://a@127.0.0.1:1/b", "sink.connect_timeout_s": "0.5"}, "PostgreSQL cannot be reached"),
    ({"sink.url": "no://url at all"}, "sink.url"),
    ({"sink.url": ""}, "sink.url is not set"),
)


@pytest.mark.parametrize(("changes", "text"), WRONG)
def test_a_wrong_setting_is_one_line_that_names_it(stream: Stream, url: str, changes: Any, text: str) -> None:
    with WorkerProcess({**settings(stream, url), **changes}, command=("sink", "pgvector")) as sink:
        assert sink.wait(PATIENCE_S) in (2, 15)
        (line,) = [line for line in sink.stderr.splitlines() if line.startswith("align-worker: ")]
        assert text in line
