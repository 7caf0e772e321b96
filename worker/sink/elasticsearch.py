"""Elasticsearch and OpenSearch, by their bulk API: an index per space, and the newer document decided by the engine.

Each document is indexed with an external version, its source offset (of a user's vector its place in the log), which
the engine compares. A deleted item keeps its document, without vector: the engine itself forgets the version of what is
deleted after a minute. What one number cannot say: a key in two partitions, and users of a topic that was made again,
which needs a `sink.prefix` of its own.
"""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from worker.errors import ConfigError, StoreError
from worker.json_text import read_json
from worker.settings import SinkSettings
from worker.sink.port import Outcome, RowsRefusedError
from worker.sink.row import NAMES, Collection, Entity, Row

_ID: dict[Entity, str] = {"items": "item_id", "users": "user_id"}
_META = "align_sink"
_SIMILARITY = {"cosine": "cosine", "ip": "dot_product", "l2": "l2_norm"}
_SPACE_TYPE = {"cosine": "cosinesimil", "ip": "innerproduct", "l2": "l2"}
_RETRY_STATUS = (408, 429, 500, 502, 503, 504)


class Elasticsearch:
    """Implements `Store`."""

    def __init__(self, settings: SinkSettings, kind: str) -> None:
        if settings.url is None or urlsplit(settings.url).scheme not in ("http", "https"):
            raise ConfigError("sink.url is not set to an http or https URL: name the server, as http://host:9200")
        self._settings = settings
        self._kind = kind
        self._url = settings.url.rstrip("/")
        self._prepared: set[Collection] = set()
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if settings.password is not None:
            secret = settings.password.get_secret_value()
            pair = base64.b64encode(f"{settings.username}:{secret}".encode()).decode()
            self._headers["Authorization"] = f"Basic {pair}" if settings.username else f"ApiKey {secret}"

    def connect(self) -> None:
        self.close()
        self._ask("GET", "/")

    def prepare(self, collection: Collection) -> None:
        if collection in self._prepared:
            return
        name = self._name(collection)
        status, answer = self._ask("PUT", f"/{name}", self._index(collection), also=(400,))
        if status == 400 and "resource_already_exists_exception" not in json.dumps(answer):
            raise ConfigError(f"index {name} cannot be made: {_reason(answer)}")
        _, mappings = self._ask("GET", f"/{name}/_mapping")
        meta = mappings.get(name, {}).get("mappings", {}).get("_meta", {}).get(_META)
        if meta != _meta(collection):
            raise ConfigError(
                f"index {name} is not of this sink, or of another space or number of dimensions ({meta}): remove it, "
                "or set sink.prefix"
            )
        self._prepared.add(collection)

    def _index(self, collection: Collection) -> dict[str, Any]:
        is_open = self._kind == "opensearch"
        vector: dict[str, Any] = {
            "type": "dense_vector",
            "dims": collection.dim,
            "similarity": _SIMILARITY[self._settings.distance],
            "index": self._settings.index == "hnsw",
        }
        if is_open:
            method = {"name": "hnsw", "engine": "lucene", "space_type": _SPACE_TYPE[self._settings.distance]}
            vector = {"type": "knn_vector", "dimension": collection.dim, "method": method}
        elif self._settings.index == "none":
            del vector["similarity"]
        number, text = {"type": "long"}, {"type": "keyword"}
        properties = {
            _ID[collection.entity]: text, "vector": vector, "attributes": {"type": "object", "dynamic": True},
            "revision": number, "event_time_ms": number, "produced_at_ms": number, "modalities": text,
            "prior": {"type": "double"}, "num_events": number, "log": text, "log_partition": number,
            "source_offset": number, "log_offset": number, "deleted": {"type": "boolean"},
        }  # fmt: skip
        return {
            **({"settings": {"index": {"knn": True}}} if is_open else {}),
            "mappings": {
                "dynamic": False,
                "_meta": {_META: _meta(collection)},
                "dynamic_templates": [{"words": {"match_mapping_type": "string", "mapping": {"type": "keyword"}}}],
                "properties": properties,
            },
        }

    def collections(self, entity: Entity) -> Sequence[Collection]:
        status, found = self._ask("GET", f"/{self._settings.prefix}{NAMES[entity]}_*/_mapping", also=(404,))
        metas = (
            [] if status == 404 else [each.get("mappings", {}).get("_meta", {}).get(_META) for each in found.values()]
        )
        return [
            Collection(entity, meta["space_id"], meta["dim"]) for meta in metas if meta and meta["entity"] == entity
        ]

    def write(self, collection: Collection, rows: Sequence[Row]) -> Outcome:
        lines = []
        for row in rows:
            action = {"_id": row.id, "version": _version(row), "version_type": "external_gte"}
            lines += [json.dumps({"index": action}), json.dumps(_document(collection, row), ensure_ascii=False)]
        body = ("\n".join(lines) + "\n").encode()
        status, answer = self._ask("POST", f"/{self._name(collection)}/_bulk", body, also=(400, 413))
        if status in (400, 413):
            raise RowsRefusedError(_reason(answer) if status == 400 else "the batch is too large for the server")
        results = [each["index"] for each in answer["items"]]
        wrong = [each for each in results if each["status"] not in (200, 201, 409)]
        if any(each["status"] in _RETRY_STATUS for each in wrong):
            raise StoreError(f"{self._kind}: {_reason(wrong[0])}")
        if wrong:  # those beside it are written; they come again, and are the same
            raise RowsRefusedError(_reason(wrong[0]))
        written = [row for row, each in zip(rows, results, strict=True) if each["status"] != 409]
        num_deleted = sum(row.is_deleted for row in written)
        return Outcome(len(written) - num_deleted, num_deleted, len(rows) - len(written))

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | bytes | None = None, also: Sequence[int] = ()
    ) -> tuple[int, dict[str, Any]]:
        """Status and answer. Raises `StoreError` for every status that is neither good nor among `also`."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = (
            self._headers if not isinstance(body, bytes) else {**self._headers, "Content-Type": "application/x-ndjson"}
        )
        url = self._url + quote(path, safe="/*,_")
        request = urllib.request.Request(url, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=self._settings.timeout_s) as response:
                return response.status, _json(response.read())
        except urllib.error.HTTPError as error:
            answer = _json(error.read())
            if error.code in also:
                return error.code, answer
            if error.code in (401, 403):
                raise ConfigError(f"sink.password: {self._kind} refuses us: {_reason(answer)}") from error
            raise StoreError(f"{self._kind}: HTTP {error.code}: {_reason(answer)}") from error
        except OSError as error:
            raise StoreError(f"{self._kind} cannot be reached: {error}") from error

    def tick(self, *, is_caught_up: bool) -> bool:
        return True

    def _name(self, collection: Collection) -> str:
        return self._settings.prefix + collection.name

    def close(self) -> None:
        self._prepared.clear()


def _meta(collection: Collection) -> dict[str, Any]:
    return {"entity": collection.entity, "space_id": collection.space_id, "dim": collection.dim}


def _version(row: Row) -> int:
    return row.place.offset if row.place.source_offset is None else row.place.source_offset


def _document(collection: Collection, row: Row) -> dict[str, Any]:
    place = row.place
    document: dict[str, Any] = {
        _ID[collection.entity]: row.id, "revision": place.revision, "produced_at_ms": place.made_at_ms,
        "log": place.log, "log_partition": place.partition, "source_offset": place.source_offset,
        "log_offset": place.offset, "deleted": row.is_deleted,
    }  # fmt: skip
    if row.vector is None:
        return document
    document |= {"vector": row.vector.tolist(), "attributes": dict(row.attributes), "event_time_ms": row.event_time_ms}
    if collection.entity == "users":
        return {**document, "num_events": row.num_events}
    return {**document, "modalities": list(row.modalities), "prior": row.prior}


def _json(data: bytes) -> dict[str, Any]:
    try:
        found = read_json(data or b"{}")
    except ValueError:
        return {"error": data[:200].decode(errors="replace")}
    return found if isinstance(found, dict) else {"answer": found}


def _reason(answer: Mapping[str, Any]) -> str:
    error = answer.get("error", answer)
    if isinstance(error, Mapping):
        error = error.get("reason") or error.get("type") or error
    return " ".join(str(error).split())[:500]
