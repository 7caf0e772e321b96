"""Neighbours out of an index that a sink has filled, with conditions on attributes: the same from every kind that can
search, and from a computation that looks at everything.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from qdrant_client import QdrantClient

from tests.stores.postgres import Postgres
from worker.errors import ConfigError, DataError
from worker.recommend.answers import Search
from worker.recommend.conditions import condition
from worker.recommend.index import AGAIN, answer, like_item, of_user
from worker.settings import SinkSettings
from worker.sink.kinds import SEARCHABLE, make_store
from worker.sink.port import Store
from worker.sink.qdrant import Qdrant
from worker.sink.row import Collection, Place, Row
from worker.sink.searching import StoreIndex, open_index

DIM, NUM = 8, 300
ITEMS, USERS = Collection("items", "5f2c", DIM), Collection("users", "5f2c", DIM)
_RANDOM = np.random.default_rng(3).standard_normal((NUM, DIM)).astype(np.float32)
VECTORS = _RANDOM / np.linalg.norm(_RANDOM, axis=1, keepdims=True)
CATEGORIES = ("kitchen", 'the "garden"', "it's odd \\ %s")


def attributes(number: int) -> dict[str, object]:
    found: dict[str, object] = {"price": float(number), "category": CATEGORIES[number % 3], "stock": number % 2 == 0}
    if number % 5 == 0:
        found["tags"] = ["new", f"t{number % 4}"]
    if number % 7 == 0:
        found["price"] = "on request"
    if number % 11 == 0:
        del found["category"]
    return found


def rows() -> Iterator[Row]:
    for number in range(NUM):
        place = Place("log", 0, number, number, 1, 1)
        prior = 2.0 if number == 200 else 0.0
        yield Row(f"i{number}", place, ITEMS, VECTORS[number], 5, ("text",), prior, attributes(number))


@pytest.fixture(scope="module")
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreIndex]:
    store = made(request.param, request, tmp_path_factory.mktemp("milvus"))
    store.connect()
    for collection in (ITEMS, USERS):
        store.prepare(collection)
    store.write(ITEMS, list(rows()))
    store.write(USERS, [Row("ada", Place("log", 0, None, 1, 1), USERS, VECTORS[7], 9, num_events=3)])
    store.write(ITEMS, [Row("i9", Place("log", 0, 999, 999, 2), None)])
    yield StoreIndex(store, ITEMS, USERS)  # type: ignore[arg-type]
    store.close()


def made(kind: str, request: pytest.FixtureRequest, path: Path) -> Store:
    if kind == "qdrant":
        return Qdrant(SinkSettings(), QdrantClient(":memory:"))
    if kind == "milvus":
        settings = SinkSettings(url=str(path / "milvus.db"))
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        settings = SinkSettings(url=postgres.create_database(f"search-{uuid4().hex}"))
    return make_store(kind, settings)


WHERE: tuple[tuple[str, ...], ...] = (
    (),
    ("price < 40",),
    ("price >= 40", "price <= 90.5"),
    ("price = 41",),
    ("price != 41",),
    ("price > 100", "category = kitchen"),
    ('category = the "garden"',),
    ("category = it's odd \\ %s",),
    ("category != kitchen",),
    ("stock = true", "price < 60"),
    ("stock != true",),
    ("tags = new",),
    ("tags != t1",),
    ("tags = t3", "stock = false"),
    ("price = on request",),
    ("nothing = 1",),
)


def expected(number: int, where: tuple[str, ...], count: int, without: set[str]) -> list[str]:
    conditions = [condition(each) for each in where]
    best = sorted(range(NUM), key=lambda other: -float(VECTORS[number] @ VECTORS[other]))
    found = (
        f"i{other}"
        for other in best
        if other != 9 and f"i{other}" not in without and all(each.holds(attributes(other)) for each in conditions)  # type: ignore[arg-type]
    )
    return list(itertools.islice(found, count))


@pytest.mark.parametrize("index", SEARCHABLE, indirect=True)
class TestEveryKind:
    def test_the_nearest_are_those_that_the_conditions_hold_for(self, index: StoreIndex) -> None:
        for where in WHERE:
            asked = like_item("i4", index)
            (found,), items = answer([asked], index, Search(count=12), [condition(each) for each in where])
            assert [items.item_ids[hit.item] for hit in found.hits] == expected(4, where, 12, {"i4"}), where
            for hit in found.hits:
                number = int(items.item_ids[hit.item][1:])
                assert hit.score == pytest.approx(float(VECTORS[4] @ VECTORS[number]), abs=1e-5)
                assert dict(items.attributes[hit.item]) == attributes(number)

    def test_a_user_gets_neighbours_that_have_not_been_seen_and_the_prior_counts(self, index: StoreIndex) -> None:
        user = index.user("ada")
        assert user is not None
        assert (user.num_events, user.event_time_ms) == (3, 9)
        asked = of_user("ada", user, None, index.space_id)._replace(without=frozenset({"i7"}))
        (found,), items = answer([asked], index, Search(count=5, score="cosine"), [])
        assert [items.item_ids[hit.item] for hit in found.hits] == expected(7, (), 5, {"i7"})
        among = expected(7, (), AGAIN * 30, {"i7"})
        (found,), items = answer([asked], index, Search(count=30), [])
        assert items.item_ids[found.hits[0].item] == "i200"
        assert "i200" in among

    def test_what_is_not_there_is_said(self, index: StoreIndex) -> None:
        assert index.user("nobody") is None
        for item_id in ("i9", "no'such"):
            with pytest.raises(ConfigError, match="has no vector of this item in space 5f2c"):
                like_item(item_id, index)
        with pytest.raises(DataError, match="has 3 dimensions, the vectors of the index 8"):
            index.nearest(np.ones(3, np.float32), 3, [], ())


def test_an_index_with_vectors_of_several_spaces_or_of_none_asks_which(postgres: Postgres) -> None:
    settings = SinkSettings(url=postgres.create_database(f"spaces-{uuid4().hex}"))
    with pytest.raises(ConfigError, match=r"--index pgvector: it has no item vectors: `align-worker sink pgvector`"):
        open_index("pgvector", settings, None)
    store = make_store("pgvector", settings)
    store.connect()
    for space_id in ("a", "b"):
        store.prepare(Collection("items", space_id, 2))
    store.close()
    with pytest.raises(ConfigError, match=r"of several spaces \(a, b\): space.path says of which"):
        open_index("pgvector", settings, None)
    opened = open_index("pgvector", settings, "b")
    assert (opened.space_id, opened.has_users) == ("b", False)
    opened.close()
