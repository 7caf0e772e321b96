"""Milvus: a collection per space, and beside it one of deletions.

Milvus has no upsert that compares, so what it has is read (consistency level Strong) and compared here before it is
written. Two sinks share the partitions of the topics, and one that has lost a partition writes nothing more of it; what
is not guarded is a process that is frozen between reading and writing, for so long that another has taken over.
"""

from __future__ import annotations

import json
from collections.abc import Collection as Ids
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymilvus import DataType, MilvusClient, MilvusException

from worker.errors import ConfigError, StoreError
from worker.recommend.conditions import Condition
from worker.recommend.index import Neighbor
from worker.recommend.published import PublishedUser
from worker.settings import SinkSettings
from worker.sink.port import Outcome, RowsRefusedError
from worker.sink.row import NO_SOURCE, Collection, Entity, Place, Row, is_newer

ID_BYTES = 2_048  # 512 characters of up to four
METRICS = {"cosine": "COSINE", "ip": "IP", "l2": "L2"}
DELETED = "_deleted"
MAX_ASKED = 256
_ID: dict[Entity, str] = {"items": "item_id", "users": "user_id"}
_PLACE = ("log", "log_partition", "source_offset", "log_offset", "produced_at_ms", "revision")


class Milvus:
    """Implements `Store`."""

    def __init__(self, settings: SinkSettings) -> None:
        if settings.url is None:
            raise ConfigError("sink.url is not set: name the server, as http://host:19530, or a file of Milvus Lite")
        self._settings = settings
        self._client: MilvusClient | None = None
        self._prepared: set[Collection] = set()

    def connect(self) -> None:
        self.close()
        password = self._settings.password
        with _translated():
            self._client = MilvusClient(
                uri=self._settings.url,
                token="" if password is None else password.get_secret_value(),
                timeout=self._settings.timeout_s,
            )
            self._client.list_collections()

    def prepare(self, collection: Collection) -> None:
        if collection in self._prepared:
            return
        client, name = self._open(), self._name(collection)
        with _translated():
            if not client.has_collection(name):
                self._make(client, name, collection, collection.dim)
            if not client.has_collection(name + DELETED):
                self._make(client, name + DELETED, collection, 2)
            dim = _dim(client, name)
            for each in (name, name + DELETED):
                client.load_collection(each)
        if dim != collection.dim:
            raise ConfigError(
                f"collection {name} holds vectors of {dim} dimensions, the topic vectors of {collection.dim}: rename "
                "it, or set sink.prefix"
            )
        self._prepared.add(collection)

    def _make(self, client: MilvusClient, name: str, collection: Collection, dim: int) -> None:
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field(_ID[collection.entity], DataType.VARCHAR, is_primary=True, max_length=ID_BYTES)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
        schema.add_field("attributes", DataType.JSON)
        schema.add_field("modalities", DataType.JSON)
        for field in ("log", "space_id"):
            schema.add_field(field, DataType.VARCHAR, max_length=1_024)
        names: tuple[str, ...] = ("revision", "event_time_ms", "produced_at_ms", "num_events")
        names += ("log_partition", "source_offset", "log_offset")
        for field in names:
            schema.add_field(field, DataType.INT64)
        schema.add_field("prior", DataType.DOUBLE)
        index = client.prepare_index_params()
        kind = "AUTOINDEX" if self._settings.index == "hnsw" and not name.endswith(DELETED) else "FLAT"
        index.add_index(field_name="vector", index_type=kind, metric_type=METRICS[self._settings.distance])
        client.create_collection(name, schema=schema, index_params=index, consistency_level="Strong")

    def collections(self, entity: Entity) -> Sequence[Collection]:
        client, prefix = self._open(), f"{self._settings.prefix}{Collection(entity, 'x', 1).name[:-1]}"
        found = [each for each in self._prepared if each.entity == entity]
        with _translated():
            for name in client.list_collections():
                if not name.startswith(prefix) or name.endswith(DELETED) or name in map(self._name, found):
                    continue
                space_id = self._space_of(client, name, entity)
                if space_id is not None:
                    collection = Collection(entity, space_id, _dim(client, name))
                    if self._name(collection) == name:
                        found.append(collection)
        return found

    @staticmethod
    def _space_of(client: MilvusClient, name: str, entity: Entity) -> str | None:
        """Space of the rows; None where there is none, or it is not of a sink."""
        for each in (name, name + DELETED):
            fields = {field["name"] for field in client.describe_collection(each)["fields"]}
            if "space_id" not in fields:
                return None
            client.load_collection(each)
            rows = client.query(each, filter=f'{_ID[entity]} != ""', output_fields=["space_id"], limit=1)
            if rows:
                return str(rows[0]["space_id"])
        return None

    def write(self, collection: Collection, rows: Sequence[Row]) -> Outcome:
        client, name, key = self._open(), self._name(collection), _ID[collection.entity]
        with _translated():
            ids = [row.id for row in rows]
            living, dead = _places(client, name, key, ids), _places(client, name + DELETED, key, ids)
            newer = [row for row in rows if _is_newer(row, living.get(row.id), dead.get(row.id))]
            gone = [row for row in newer if row.is_deleted]
            kept = [row for row in newer if not row.is_deleted]
            if gone:  # the mark first: what fails in between comes again
                client.upsert(name + DELETED, [_entity(collection, row, [0.0, 1.0]) for row in gone])
                _delete(client, name, key, [row.id for row in gone])
            if kept:
                client.upsert(name, [_entity(collection, row, _elements(row)) for row in kept])
                if again := [row.id for row in kept if row.id in dead]:
                    _delete(client, name + DELETED, key, again)
        return Outcome(len(kept), len(gone), len(rows) - len(newer))

    def find(self, collection: Collection, row_id: str) -> PublishedUser | None:
        client, name, key = self._open(), self._name(collection), _ID[collection.entity]
        with _translated():
            client.load_collection(name)
            fields = ["vector", "num_events", "event_time_ms"]
            found = client.query(name, filter=_among(key, [row_id]), output_fields=fields)
        for each in found:
            return PublishedUser(np.array(each["vector"], np.float32), each["num_events"], each["event_time_ms"])
        return None

    def nearest(
        self,
        collection: Collection,
        vector: NDArray[np.float32],
        count: int,
        where: Sequence[Condition],
        without: Ids[str],
    ) -> Sequence[Neighbor]:
        client, name, key = self._open(), self._name(collection), _ID[collection.entity]
        conditions = [f"not ({_among(key, list(without))})"] if without else []
        conditions += [_expression(each) for each in where]
        with _translated():
            client.load_collection(name)
            (found,) = client.search(
                name, data=[vector.tolist()], anns_field="vector", filter=" and ".join(conditions), limit=count,
                output_fields=[key, "prior", "modalities", "attributes"],
            )  # fmt: skip
        is_distance = self._settings.distance == "l2"
        return [
            Neighbor(
                fields[key],
                1 - each["distance"] / 2 if is_distance else each["distance"],  # of L2 Milvus says the square
                fields["prior"],
                tuple(fields["modalities"] or ()),
                fields["attributes"] or {},
            )
            for each in found
            if (fields := each["entity"])
        ]

    def tick(self, *, is_caught_up: bool) -> bool:
        return True

    def _name(self, collection: Collection) -> str:
        return self._settings.prefix + collection.name

    def _open(self) -> MilvusClient:
        if self._client is None:
            raise StoreError("Milvus is not connected")
        return self._client

    def close(self) -> None:
        self._prepared.clear()
        client, self._client = self._client, None
        if client is not None:
            client.close()


def _is_newer(row: Row, living: Place | None, dead: Place | None) -> bool:
    return all(
        known is None or is_newer(row.place, known, is_deleted=row.is_deleted, was_deleted=known is dead)
        for known in (living, dead)
    )


def _places(client: MilvusClient, name: str, key: str, ids: Sequence[str]) -> dict[str, Place]:
    found: dict[str, Place] = {}
    for start in range(0, len(ids), MAX_ASKED):
        asked = list(ids[start : start + MAX_ASKED])
        for each in client.query(name, filter=_among(key, asked), output_fields=[key, *_PLACE]):
            source = each["source_offset"]
            found[each[key]] = Place(
                each["log"], each["log_partition"], None if source == NO_SOURCE else source, each["log_offset"],
                each["produced_at_ms"], each["revision"],
            )  # fmt: skip
    return found


def _among(key: str, ids: Sequence[str]) -> str:
    """The client's own way, `ids=`, quotes no quotes."""
    return f"{key} in {json.dumps(list(ids), ensure_ascii=False)}"


def _delete(client: MilvusClient, name: str, key: str, ids: Sequence[str]) -> None:
    for start in range(0, len(ids), MAX_ASKED):
        client.delete(name, filter=_among(key, ids[start : start + MAX_ASKED]))


def _expression(condition: Condition) -> str:
    field, value = f"attributes[{json.dumps(condition.name, ensure_ascii=False)}]", condition.value
    written = json.dumps(value, ensure_ascii=False)
    if condition.operator not in ("=", "!="):
        return f"{field} {condition.operator} {written}"
    held = f"{field} == {written}"
    if isinstance(value, str):
        held = f"({held} or json_contains({field}, {written}))"
    return held if condition.operator == "=" else f"(exists {field} and not ({held}))"


def _dim(client: MilvusClient, name: str) -> int:
    """Dimension of its vectors; 0 where it has none."""
    fields = {field["name"]: field for field in client.describe_collection(name)["fields"]}
    return int(fields.get("vector", {}).get("params", {}).get("dim", 0))


def _elements(row: Row) -> list[float]:
    assert row.vector is not None
    elements: list[float] = row.vector.tolist()
    return elements


def _entity(collection: Collection, row: Row, vector: list[float]) -> dict[str, Any]:
    place = row.place
    return {
        _ID[collection.entity]: row.id,
        "space_id": collection.space_id,
        "vector": vector,
        "attributes": {name: list(each) if isinstance(each, tuple) else each for name, each in row.attributes.items()},
        "modalities": list(row.modalities),
        "log": place.log,
        "revision": place.revision,
        "event_time_ms": row.event_time_ms,
        "produced_at_ms": place.made_at_ms,
        "num_events": row.num_events,
        "log_partition": place.partition,
        "source_offset": NO_SOURCE if place.source_offset is None else place.source_offset,
        "log_offset": place.offset,
        "prior": row.prior or 0.0,
    }


class _translated:  # noqa: N801  # reads as a word
    """Errors of the client as ours."""

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is None or isinstance(error, ConfigError | StoreError):
            return
        text = " ".join(str(error).split())[:500] or type(error).__name__
        if isinstance(error, MilvusException) and error.code in (1100, 1101, 1804):  # a parameter, or a row, is wrong
            raise RowsRefusedError(text) from error
        if isinstance(error, Exception):
            raise StoreError(f"Milvus: {text}") from error
