"""What every kind of index keeps to: the newest of each item, no ghosts, whatever comes late or twice.

Milvus is Milvus Lite, the engine in a file; Qdrant is the library's own engine in memory, and Elasticsearch a server
that answers as its documents say: the real ones were not run here. PostgreSQL has `test_sink.py` besides.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psycopg
import pyarrow.parquet as pq
import pytest
from qdrant_client import QdrantClient

from tests.stores.elastic import ElasticServer
from tests.stores.postgres import Postgres
from worker.errors import ConfigError, StoreError
from worker.settings import SinkSettings
from worker.sink.files import Files
from worker.sink.kinds import KINDS, make_store
from worker.sink.port import RowsRefusedError, Store
from worker.sink.qdrant import VECTOR, Qdrant
from worker.sink.row import Collection, Place, Row

DIM = 4
NOW_MS = time.time_ns() // 1_000_000
SPACE = Collection("items", "5f2c", DIM)
Held = dict[str, tuple[float, Any]]


class Index(NamedTuple):
    """A kind of index: how a sink opens it, and what a reader finds in it."""

    open: Callable[[], Store]
    read: Callable[[Store], Held]
    """By id the first element and the price."""


@pytest.fixture
def qdrant() -> Iterator[Index]:
    client = QdrantClient(":memory:")

    def read(store: Store) -> Held:
        points, _ = client.scroll("item_vectors_5f2c", limit=1_000, with_vectors=True)
        nearest = client.query_points("item_vectors_5f2c", [1.0, 0, 0, 0], using=VECTOR, limit=1_000).points
        found: Held = {
            each.payload["item_id"]: (each.vector[VECTOR][0], each.payload["attributes"].get("price"))
            for each in points
            if not each.payload["deleted"]
        }
        assert {each.payload["item_id"] for each in nearest} == found.keys(), "a search finds no ghosts"
        return found

    yield Index(lambda: Qdrant(SinkSettings(), client), read)
    client.close()


@pytest.fixture
def milvus(tmp_path: Path) -> Index:
    settings = SinkSettings(url=str(tmp_path / "milvus.db"))

    def read(store: Any) -> Held:
        client = store._client
        fields = ["item_id", "vector", "attributes"]
        rows = client.query("item_vectors_5f2c", filter='item_id != ""', output_fields=fields)
        return {each["item_id"]: (float(each["vector"][0]), each["attributes"].get("price")) for each in rows}

    return Index(lambda: make_store("milvus", settings), read)


@pytest.fixture
def files(tmp_path: Path) -> Index:
    settings = SinkSettings(path=tmp_path / "snapshots", snapshot_interval_s=0)

    def read(store: Store) -> Held:
        store.tick(is_caught_up=True)
        current = tmp_path / "snapshots" / "item_vectors_5f2c" / "current"
        ids, vectors_ND = json.loads((current / "ids.json").read_text()), np.load(current / "vectors.npy")
        rows = pq.read_table(current / "rows.parquet").to_pylist()
        assert [row["id"] for row in rows] == ids
        assert vectors_ND.shape == (len(ids), DIM)
        prices = [json.loads(row["attributes"]).get("price") for row in rows]
        return dict(zip(ids, zip(vectors_ND[:, 0].tolist(), prices, strict=True), strict=True))

    return Index(lambda: make_store("files", settings), read)


@pytest.fixture
def elastic() -> Iterator[ElasticServer]:
    with ElasticServer() as server:
        yield server


def search_engine(kind: str, elastic: ElasticServer) -> Index:
    def read(store: Store) -> Held:
        documents = [source for _, source in elastic.documents["item_vectors_5f2c"].values() if not source["deleted"]]
        return {each["item_id"]: (each["vector"][0], each["attributes"].get("price")) for each in documents}

    return Index(lambda: make_store(kind, SinkSettings(url=elastic.url)), read)


@pytest.fixture
def elasticsearch(elastic: ElasticServer) -> Index:
    return search_engine("elasticsearch", elastic)


@pytest.fixture
def opensearch(elastic: ElasticServer) -> Index:
    return search_engine("opensearch", elastic)


@pytest.fixture
def pgvector(postgres: Postgres, request: pytest.FixtureRequest) -> Index:
    url = postgres.create_database(f"kinds-{abs(hash(request.node.nodeid))}")

    def read(store: Store) -> Held:
        with psycopg.connect(url) as connection:
            rows = connection.execute("SELECT item_id, vector::real[], attributes FROM item_vectors").fetchall()
        return {name: (vector[0], attributes.get("price")) for name, vector, attributes in rows}

    return Index(lambda: make_store("pgvector", SinkSettings(url=url)), read)


@pytest.fixture(params=KINDS)
def index(request: pytest.FixtureRequest) -> Index:
    found: Index = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def store(index: Index) -> Iterator[Store]:
    made = opened(index)
    yield made
    made.close()


def opened(index: Index) -> Store:
    store = index.open()
    store.connect()
    store.prepare(SPACE)
    return store


def row(row_id: str, source: int, offset: int | None = None, **attributes: Any) -> Row:
    vector = np.array([np.cos(source), np.sin(source), 0, 0], np.float32)
    place = Place("log", 0, source, source if offset is None else offset, NOW_MS + source, source)
    return Row(row_id, place, SPACE, vector, 5, ("text", "image"), 0.5, {"price": source, **attributes})


def gone(row_id: str, source: int) -> Row:
    return Row(row_id, Place("log", 0, source, source, NOW_MS + source), None)


def value(source: int) -> tuple[Any, Any]:
    return pytest.approx(np.cos(source), abs=1e-5), source


def test_the_newest_of_each_item_is_found_and_neither_what_comes_late_nor_what_comes_again_counts(
    index: Index, store: Store
) -> None:
    assert store.write(SPACE, [row(f"i{n}", n) for n in range(20)]) == (20, 0, 0)
    outcome = store.write(SPACE, [row("i0", 30), row("i5", 2), row("new", 31), row("i6", 3)])
    assert (outcome.num_vectors, outcome.num_stale) == (2, 2)
    assert index.read(store) == {"i0": value(30), "new": value(31), **{f"i{n}": value(n) for n in range(1, 20)}}


def test_a_deleted_item_is_not_found_and_only_what_is_newer_brings_it_back(index: Index, store: Store) -> None:
    store.write(SPACE, [row("a", 1), row("b", 1)])
    outcome = store.write(SPACE, [gone("a", 5), gone("never", 6)])
    assert outcome.num_deleted == 2
    assert store.write(SPACE, [row("a", 3), row("never", 4)]).num_stale == 2
    assert index.read(store) == {"b": value(1)}
    assert store.write(SPACE, [gone("b", 0)]).num_stale == 1
    assert store.write(SPACE, [row("a", 7)]).num_vectors == 1
    assert index.read(store) == {"a": value(7), "b": value(1)}


def test_it_is_the_same_index_after_a_restart_and_what_was_deleted_stays_so(index: Index) -> None:
    store = opened(index)
    store.write(SPACE, [row("a", 3), row("b", 4), row("c", 5)])
    store.write(SPACE, [gone("b", 6)])
    store.close()
    store = index.open()
    store.connect()
    assert store.collections("items") == [SPACE]
    assert store.collections("users") == []
    store.prepare(SPACE)
    assert store.write(SPACE, [row("b", 5), row("a", 2)]).num_stale == 2
    assert store.write(SPACE, [row("c", 9)]).num_vectors == 1
    assert index.read(store) == {"a": value(3), "c": value(9)}
    store.close()


def test_the_same_input_computed_anew_counts_where_it_lies_later_in_the_log(index: Index, store: Store) -> None:
    store.write(SPACE, [row("a", 5, offset=7)])
    store.write(SPACE, [row("a", 5, offset=9)._replace(attributes={"price": 99})])
    assert index.read(store)["a"][1] == 99


def test_odd_ids_and_attributes_come_back_as_they_are(index: Index, store: Store) -> None:
    ids = ["Grüße/1", "a b", "'quoted\"", "x" * 300, "%_\\", "日本"]
    store.write(SPACE, [row(each, n, tags=("a", "b"), ok=True, note="é'\"\\") for n, each in enumerate(ids)])
    assert index.read(store) == {each: value(n) for n, each in enumerate(ids)}
    store.write(SPACE, [gone(each, 100 + n) for n, each in enumerate(ids[:3])])
    assert sorted(index.read(store)) == sorted(ids[3:])


def test_vectors_of_another_length_are_refused_by_the_name_of_what_holds_them(index: Index, store: Store) -> None:
    with pytest.raises(ConfigError, match="item_vectors_5f2c"):
        store.prepare(SPACE._replace(dim=8))


def test_users_have_a_collection_of_their_own(index: Index, store: Store) -> None:
    users = Collection("users", "5f2c", DIM)
    store.prepare(users)
    found = Row("u", Place("log", 0, None, 3, 9), users, np.ones(DIM, np.float32), 5, num_events=2)
    assert store.write(users, [found]).num_vectors == 1
    assert store.write(users, [found._replace(place=Place("log", 0, None, 2, 10))]).num_stale == 1
    assert store.collections("users") == [users]


@pytest.mark.parametrize("space_id", ["A Space/of: somebody's", "s" * 128, "ümlaut"])
def test_any_id_of_a_space_has_a_place(index: Index, store: Store, space_id: str) -> None:
    odd = SPACE._replace(space_id=space_id)
    store.prepare(odd)
    assert store.write(odd, [row("a", 1)]).num_vectors == 1
    assert set(store.collections("items")) == {SPACE, odd}


# ---------------------------------------------------------------------- one kind


def test_a_journal_that_a_crash_has_torn_is_read_as_far_as_it_was_acknowledged(tmp_path: Path) -> None:
    settings = SinkSettings(path=tmp_path, snapshot_interval_s=10_000)
    store = Files(settings)
    store.connect()
    store.prepare(SPACE)
    store.write(SPACE, [row("a", 1)])  # the first snapshot
    store.write(SPACE, [row("b", 2)])
    store.write(SPACE, [row("c", 3)])
    store._release()  # no snapshot is made, as when the process is killed
    (journal,) = (tmp_path / "item_vectors_5f2c").glob("journal-*")
    whole = journal.read_bytes()
    for torn in (whole[:-1], whole[:-40], whole + b"\0\0", whole[:-1] + b"\xff"):
        journal.write_bytes(torn)
        store.connect()
        held = store._held[SPACE].rows
        assert {"a", "b"} <= held.keys()
        assert ("c" in held) == (torn == whole + b"\0\0")
        store._release()


def test_a_directory_is_for_one_sink_at_a_time(tmp_path: Path) -> None:
    first, second = (Files(SinkSettings(path=tmp_path)) for _ in range(2))
    first.connect()
    with pytest.raises(StoreError, match="in use by another sink"):
        second.connect()
    first.close()
    second.connect()
    second.close()


def test_a_reader_of_files_sees_whole_snapshots_alone(files: Index, tmp_path: Path) -> None:
    store = opened(files)
    for source in range(1, 30):
        store.write(SPACE, [row(f"i{n}", 10 * source + n) for n in range(source)])
        assert len(files.read(store)) == source
    assert len(list((tmp_path / "snapshots" / "item_vectors_5f2c").glob("snapshot-*"))) <= 2
    store.close()


def test_a_search_engine_that_is_busy_is_asked_again_and_a_document_that_it_refuses_is_named(
    elastic: ElasticServer,
) -> None:
    store = make_store("elasticsearch", SinkSettings(url=elastic.url))
    store.connect()
    store.prepare(SPACE)
    for status in (429, 500, 503):
        elastic.status = status
        with pytest.raises(StoreError, match=f"HTTP {status}"):
            store.write(SPACE, [row("a", 1)])
    elastic.status = 401
    with pytest.raises(ConfigError, match=r"sink\.password"):
        store.write(SPACE, [row("a", 1)])
    elastic.status = None
    with pytest.raises(RowsRefusedError, match="id is too long"):
        store.write(SPACE, [row("é" * 300, 1)])


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_says_which_setting_it_lacks(kind: str) -> None:
    with pytest.raises(ConfigError, match=r"sink\.(url|path) is not set"):
        make_store(kind, SinkSettings())


def test_a_driver_that_is_missing_is_one_line_that_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"psycopg is not installed .*pip install 'align-worker\[pgvector\]'"):
        make_store("pgvector", SinkSettings(url="postgresql://a@b/c"))
