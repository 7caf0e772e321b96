"""Qdrant from 1.16 on: a collection per space, and the newer point decided by the engine (`update_filter`).

A point's id is a UUID made of the item's id, which lies in its payload. A deleted item keeps its point, without vector,
so that searches do not find it and an older vector that comes late does.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection as Ids
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models

from worker.encode.clock import Aside, Clock
from worker.errors import ConfigError, StoreError
from worker.recommend.conditions import Condition
from worker.recommend.index import Neighbor
from worker.recommend.published import PublishedUser
from worker.settings import SinkSettings
from worker.sink.address import is_web_address
from worker.sink.port import Outcome, RowsRefusedError
from worker.sink.row import NO_SOURCE, Collection, Entity, Row

NAMESPACE = uuid.UUID("5d0d9b0e-6f0c-5f5e-9a53-0f6b8b3f7a11")
VECTOR = "vector"
DISTANCES = {"cosine": models.Distance.COSINE, "ip": models.Distance.DOT, "l2": models.Distance.EUCLID}
_ID: dict[Entity, str] = {"items": "item_id", "users": "user_id"}


def point_id(row_id: str) -> str:
    return str(uuid.uuid5(NAMESPACE, row_id))


class Qdrant:
    """Implements `Store`. `client` is for tests: the library's own engine in memory."""

    def __init__(self, settings: SinkSettings, client: QdrantClient | None = None) -> None:
        if client is None and not is_web_address(settings.url):
            raise ConfigError("sink.url is not set to an http or https URL: name the server, as http://host:6333")
        self._settings = settings
        self._given = client
        self._client: QdrantClient | None = None
        self._prepared: set[Collection] = set()
        self._aside = Aside(2)

    def connect(self) -> None:
        self.close()
        password, timeout_s = self._settings.password, max(1, round(self._settings.timeout_s))
        try:
            with _translated():
                self._client = self._given or QdrantClient(
                    url=self._settings.url,
                    api_key=None if password is None else password.get_secret_value(),
                    timeout=timeout_s,
                    check_compatibility=False,
                )
                # The client's own time-out begins anew with each byte.
                self._aside.call(self._client.get_collections, Clock(timeout_s))
        except RowsRefusedError as error:
            raise StoreError(f"what answers at sink.url is no Qdrant: {error}") from error

    def prepare(self, collection: Collection) -> None:
        if collection in self._prepared:
            return
        client, name = self._open(), self._name(collection)
        with _translated():
            if not client.collection_exists(name):
                client.create_collection(
                    name,
                    vectors_config={
                        VECTOR: models.VectorParams(
                            size=collection.dim,
                            distance=DISTANCES[self._settings.distance],
                            hnsw_config=models.HnswConfigDiff(m=0) if self._settings.index == "none" else None,
                        )
                    },
                )
            found = client.get_collection(name).config.params.vectors
        size = found[VECTOR].size if isinstance(found, dict) and VECTOR in found else None
        if size != collection.dim:
            raise ConfigError(
                f"collection {name} has no vector named {VECTOR!r} of {collection.dim} dimensions (it has {size}): "
                "rename it, or set sink.prefix"
            )
        self._prepared.add(collection)

    def collections(self, entity: Entity) -> Sequence[Collection]:
        client, prefix = self._open(), f"{self._settings.prefix}{Collection(entity, 'x', 1).name[:-1]}"
        found = []
        with _translated():
            for each in client.get_collections().collections:
                if not each.name.startswith(prefix):
                    continue
                points, _ = client.scroll(each.name, limit=1, with_payload=["space_id", "dim"])
                payload = points[0].payload if points else None
                if payload and {"space_id", "dim"} <= payload.keys():
                    collection = Collection(entity, payload["space_id"], payload["dim"])
                    if self._name(collection) == each.name:
                        found.append(collection)
        return [*dict.fromkeys([*found, *(each for each in self._prepared if each.entity == entity)])]

    def write(self, collection: Collection, rows: Sequence[Row]) -> Outcome:
        client, name = self._open(), self._name(collection)
        operations: list[Any] = [
            models.UpsertOperation(
                upsert=models.PointsList(points=[_point(collection, row)], update_filter=_if_older(row)),
            )
            for row in rows
        ]
        with _translated():
            client.batch_update_points(name, operations, wait=True, ordering=models.WriteOrdering.STRONG)
            fields = ["log", "log_partition", "log_offset"]
            kept = client.retrieve(name, [point_id(row.id) for row in rows], with_payload=fields, with_vectors=False)
        places = {str(each.id): tuple((each.payload or {}).get(field) for field in fields) for each in kept}
        written = [
            row
            for row in rows
            if places.get(point_id(row.id)) == (row.place.log, row.place.partition, row.place.offset)
        ]
        num_deleted = sum(row.is_deleted for row in written)
        return Outcome(len(written) - num_deleted, num_deleted, len(rows) - len(written))

    def find(self, collection: Collection, row_id: str) -> PublishedUser | None:
        with _translated():
            found = self._open().retrieve(
                self._name(collection), [point_id(row_id)], with_payload=True, with_vectors=True
            )
        for each in found:
            payload, vectors = each.payload or {}, each.vector
            if isinstance(vectors, dict) and VECTOR in vectors and not payload.get("deleted"):
                vector = np.array(vectors[VECTOR], np.float32)
                return PublishedUser(vector, payload.get("num_events", 0), payload.get("event_time_ms", 0))
        return None

    def nearest(
        self,
        collection: Collection,
        vector: NDArray[np.float32],
        count: int,
        where: Sequence[Condition],
        without: Ids[str],
    ) -> Sequence[Neighbor]:
        must: list[Any] = [models.FieldCondition(key="deleted", match=models.MatchValue(value=False))]
        must_not: list[Any] = []
        if without:
            must_not.append(models.HasIdCondition(has_id=[point_id(each) for each in without]))
        for each in where:
            key = f'attributes."{each.name}"'
            if each.operator == "!=":
                must_not += [_held(key, each), models.IsEmptyCondition(is_empty=models.PayloadField(key=key))]
            else:
                must.append(_held(key, each))
        with _translated():
            found = self._open().query_points(
                self._name(collection), vector.tolist(), using=VECTOR, limit=count, with_payload=True,
                query_filter=models.Filter(must=must, must_not=must_not),
            )  # fmt: skip
        is_distance = self._settings.distance == "l2"
        return [
            Neighbor(
                payload["item_id"],
                1 - point.score * point.score / 2 if is_distance else point.score,
                payload.get("prior") or 0.0,
                tuple(payload.get("modalities", ())),
                payload.get("attributes", {}),
            )
            for point in found.points
            if (payload := point.payload) is not None
        ]

    def tick(self, *, is_caught_up: bool) -> bool:
        return True

    def _name(self, collection: Collection) -> str:
        return self._settings.prefix + collection.name

    def _open(self) -> QdrantClient:
        if self._client is None:
            raise StoreError("Qdrant is not connected")
        return self._client

    def close(self) -> None:
        self._prepared.clear()
        client, self._client = self._client, None
        if client is not None and client is not self._given:
            client.close()


def _point(collection: Collection, row: Row) -> models.PointStruct:
    place = row.place
    payload = {
        _ID[collection.entity]: row.id,
        "space_id": collection.space_id,
        "dim": collection.dim,
        "revision": place.revision,
        "produced_at_ms": place.made_at_ms,
        "log": place.log,
        "log_partition": place.partition,
        "source_offset": NO_SOURCE if place.source_offset is None else place.source_offset,
        "log_offset": place.offset,
        "deleted": row.is_deleted,
    }
    if row.vector is None:
        return models.PointStruct(id=point_id(row.id), vector={}, payload=payload)
    payload |= {"event_time_ms": row.event_time_ms, "attributes": dict(row.attributes)}
    if collection.entity == "users":
        payload["num_events"] = row.num_events
    else:
        payload |= {"modalities": list(row.modalities), "prior": row.prior}
    return models.PointStruct(id=point_id(row.id), vector={VECTOR: row.vector.tolist()}, payload=payload)


def _held(key: str, condition: Condition) -> models.FieldCondition:
    """Numbers as ranges: an integer and a float of one value are equal."""
    value = condition.value
    if isinstance(value, str | bool):
        return models.FieldCondition(key=key, match=models.MatchValue(value=value))
    bounds = {"<": ["lt"], "<=": ["lte"], ">": ["gt"], ">=": ["gte"]}.get(condition.operator, ["gte", "lte"])
    return models.FieldCondition(key=key, range=models.Range(**dict.fromkeys(bounds, value)))


def _if_older(row: Row) -> models.Filter:
    """Matches a point that this row is newer than: the rule of `row.is_newer`, for the engine."""
    place = row.place

    def at_most(field: str, value: int) -> models.FieldCondition:
        return models.FieldCondition(key=field, range=models.Range(lte=value))

    def below(field: str, value: int) -> models.FieldCondition:
        return models.FieldCondition(key=field, range=models.Range(lt=value))

    def equal(field: str, value: Any) -> models.FieldCondition:
        return models.FieldCondition(key=field, match=models.MatchValue(value=value))

    earlier = models.Filter(
        should=[
            models.Filter(must=[equal("log", place.log), below("log_offset", place.offset)]),
            models.Filter(must=[at_most("produced_at_ms", place.made_at_ms)], must_not=[equal("log", place.log)]),
        ]
    )
    here: list[Any] = [equal("log_partition", place.partition)]
    if place.source_offset is None:
        here.append(earlier)
    else:
        same = models.Filter(must=[equal("source_offset", place.source_offset), earlier])
        here.append(models.Filter(should=[below("source_offset", place.source_offset), same]))
    older = at_most("produced_at_ms", place.made_at_ms)
    elsewhere: list[Any] = [older]
    if not row.is_deleted:
        lower = models.Filter(must=[equal("deleted", False), below("revision", place.revision)])
        same = models.Filter(must=[equal("deleted", False), equal("revision", place.revision), older])
        elsewhere = [models.Filter(should=[lower, same, models.Filter(must=[equal("deleted", True), older])])]
    return models.Filter(
        should=[
            models.Filter(must=here),
            models.Filter(must=elsewhere, must_not=[equal("log_partition", place.partition)]),
        ]
    )


class _translated:  # noqa: N801  # reads as a word
    """Errors of the client as ours."""

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is None or isinstance(error, ConfigError | StoreError):
            return
        status = getattr(error, "status_code", None)
        text = " ".join(str(error).split())[:500] or type(error).__name__
        if status in (401, 403):
            raise ConfigError(f"sink.password: Qdrant refuses us: {text}") from error
        if status in (400, 422) or isinstance(error, ValueError):
            raise RowsRefusedError(text) from error
        if isinstance(error, Exception):
            raise StoreError(f"Qdrant: {text}") from error
