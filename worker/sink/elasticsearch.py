"""Elasticsearch and OpenSearch, by their bulk API: an index per space, and the newer document decided by the engine.

Each document is indexed with an external version, its source offset (of a user's vector its place in the log), which
the engine compares. A deleted item keeps its document, without vector: the engine itself forgets the version of what is
deleted after a minute. What one number cannot say: a key in two partitions, and users of a topic that was made again,
which needs a `sink.prefix` of its own.
"""

from __future__ import annotations

import base64
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from worker.encode.clock import Aside, Clock, LateError
from worker.errors import ConfigError, StoreError
from worker.json_text import read_json
from worker.settings import SinkSettings
from worker.sink.address import is_web_address
from worker.sink.port import Outcome, RowsRefusedError
from worker.sink.row import NAMES, Collection, Entity, Row

_ID: dict[Entity, str] = {"items": "item_id", "users": "user_id"}
_META = "align_sink"
_SIMILARITY = {"cosine": "cosine", "ip": "dot_product", "l2": "l2_norm"}
_SPACE_TYPE = {"cosine": "cosinesimil", "ip": "innerproduct", "l2": "l2"}
_RETRY_STATUS = (408, 429, 500, 502, 503, 504)
MAX_ANSWER_BYTES = 64 * 2**20
_MOST_ASIDE = 8


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Where a redirect leads, the key would be sent, too."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Elasticsearch:
    """Implements `Store`."""

    def __init__(self, settings: SinkSettings, kind: str) -> None:
        if not is_web_address(settings.url):
            raise ConfigError("sink.url is not set to an http or https URL: name the server, as http://host:9200")
        assert settings.url is not None
        self._opener = urllib.request.build_opener(_NoRedirects)
        self._aside = Aside(_MOST_ASIDE)
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
        _, answer = self._ask("GET", "/")
        if not _within(answer, "version").get("number"):
            raise StoreError(f"what answers at sink.url is no {self._kind}: {_reason(answer)}")

    def prepare(self, collection: Collection) -> None:
        if collection in self._prepared:
            return
        name = self._name(collection)
        status, answer = self._ask("PUT", f"/{name}", self._index(collection), also=(400,))
        if status == 400 and "resource_already_exists_exception" not in json.dumps(answer):
            raise ConfigError(f"index {name} cannot be made: {_reason(answer)}")
        _, mappings = self._ask("GET", f"/{name}/_mapping")
        meta = _within(mappings, name, "mappings", "_meta").get(_META)
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
        metas = [] if status == 404 else [_within(each, "mappings", "_meta", _META) for each in found.values()]
        return [Collection(entity, meta["space_id"], meta["dim"]) for meta in metas if meta.get("entity") == entity]

    def write(self, collection: Collection, rows: Sequence[Row]) -> Outcome:
        lines = []
        for row in rows:
            action = {"_id": row.id, "version": _version(row), "version_type": "external_gte"}
            lines += [json.dumps({"index": action}), json.dumps(_document(collection, row), ensure_ascii=False)]
        body = ("\n".join(lines) + "\n").encode()
        status, answer = self._ask("POST", f"/{self._name(collection)}/_bulk", body, also=(400, 413))
        if status in (400, 413):
            raise RowsRefusedError(_reason(answer) if status == 400 else "the batch is too large for the server")
        try:
            results = [{"status": int(each["index"]["status"]), **each["index"]} for each in answer["items"]]
        except (KeyError, TypeError, ValueError):
            raise StoreError(f"{self._kind}: what it says of a batch cannot be read: {_reason(answer)}") from None
        if len(results) != len(rows):
            raise StoreError(f"{self._kind}: it says something of {len(results)} of {len(rows)} documents")
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
        """Status and answer. Raises `StoreError` for every status that is neither good nor among `also`, and for an
        answer that is not whole within `sink.timeout_s`, or too large."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = (
            self._headers if not isinstance(body, bytes) else {**self._headers, "Content-Type": "application/x-ndjson"}
        )
        url = self._url + quote(path, safe="/*,_")
        request = urllib.request.Request(url, data, headers, method=method)
        clock = Clock(self._settings.timeout_s)
        try:
            status, answer = self._aside.call(lambda: self._answer(request, clock), clock)
        except LateError as error:
            raise StoreError(f"{self._kind}: an answer {error} (sink.timeout_s)") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            said = " ".join(str(error).split())[:500]
            raise StoreError(f"{self._kind} cannot be reached: {said or type(error).__name__}") from error
        if status < 300 or status in also:
            return status, answer
        if status in (401, 403):
            raise ConfigError(f"sink.password: {self._kind} refuses us: {_reason(answer)}")
        led = ": a redirect is not followed; give the address that it leads to in sink.url" if status < 400 else ""
        raise StoreError(f"{self._kind}: HTTP {status}: {_reason(answer)}{led}")

    def _answer(self, request: urllib.request.Request, clock: Clock) -> tuple[int, dict[str, Any]]:
        """By one clock from the first byte to the last: a time-out of a socket begins anew with each."""
        try:
            response = self._opener.open(request, timeout=clock.left_s())
        except urllib.error.HTTPError as error:
            response = error
        with response:
            body = bytearray()
            while part := response.read1(2**16):
                clock.left_s()
                body += part
                if len(body) > MAX_ANSWER_BYTES:
                    raise ValueError(f"its answer has more than {MAX_ANSWER_BYTES} bytes")
            if left := getattr(response, "length", None):
                raise http.client.IncompleteRead(bytes(body), left)
            return response.status, _json(bytes(body))

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


def _within(answer: Any, *names: str) -> Mapping[str, Any]:
    """The map that lies there; an empty one where there is none: it may be anybody who answers."""
    for name in names:
        answer = answer.get(name) if isinstance(answer, Mapping) else None
    return answer if isinstance(answer, Mapping) else {}


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
