"""From Kafka records and metrics pages to the verifier's values."""

from __future__ import annotations

import hashlib
import math
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgpack
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from schemas import DeadLetter, ItemVector, SchemaError, all_finite, decode, decode_vector
from tests.brokers.clients import log_ranges, read_topic
from tests.verifier.rules import Accounts, verify
from tests.verifier.values import Input, Kind, Letter, Output
from tests.verifier.verdict import Verdict

SOURCE_OFFSET_HEADER = "align-source-offset"
MAX_ID_CHARS = 512
# Rounding changes an element, and so the length, by at most this share of it: 2^-11 for f2, 2^-8 for bf2. For i1
# it is half the scale, which is the largest element / 127.
LENGTH_TOLERANCE = {"f4": 1e-5, "f2": 1e-3, "bf2": 5e-3, "i1": 3e-2}
_METRICS = {
    "align_records_consumed_total": "consumed",
    "align_records_published_total": "published",
    "align_records_superseded_total": "superseded",
    "align_records_dead_lettered_total": "dead_lettered",
    "align_records_abandoned_total": "abandoned",
    "align_records_in_flight": "in_flight",
}


def verify_topics(
    options: Mapping[str, Any],
    *,
    items: str,
    item_vectors: str,
    dead_letters: str,
    metrics_urls: Iterable[str] = (),
    space_id: str | None = None,
    dims: Mapping[str, int] | None = None,
    ignored_prefix: bytes | None = None,
) -> Verdict:
    """Read the three topics to their present ends, and judge.

    `options` are those of a kafka-python client. Call it when the workers have come to rest: what they still have in
    work counts as lost. With `dims`, dimensions by modality, items that do not fit them must be dead-lettered. Items in
    parts are not for these rules, but for `finals`: their keys may be told by a prefix.
    """
    counters = [scrape(url) for url in metrics_urls]

    def is_judged(key: bytes | None) -> bool:
        return ignored_prefix is None or not (key or b"").startswith(ignored_prefix)

    return verify(
        [read_input(record, dims or {}) for record in read_topic(options, items) if is_judged(record.key)],
        [read_output(record) for record in read_topic(options, item_vectors) if is_judged(record.key)],
        [read_letter(record) for record in read_topic(options, dead_letters)],
        items_topic=items,
        counters=counters,
        space_id=space_id,
        log_starts={partition: log.first for partition, log in log_ranges(options, items).items()},
    )


def read_input(record: Any, dims: Mapping[str, int]) -> Input:
    """An input, as far as the rules need it. Deliberately not by way of `schemas`, which is under test too."""
    kind, revision, has_neighbors, attributes = Kind.DELETE, 0, False, dict[str, Any]()
    if record.value is not None:
        revision_or_none = _revision(record.key, record.value, dims)
        kind, revision = (Kind.UNREADABLE, 0) if revision_or_none is None else (Kind.UPSERT, revision_or_none)
        if kind is Kind.UPSERT:
            fields = msgpack.unpackb(record.value, use_list=False)
            has_neighbors = bool(fields.get("neighbors"))
            attributes = {name: value for name, value in (fields.get("attributes") or {}).items() if value is not None}
    elif not _is_id(record.key):
        kind = Kind.UNREADABLE
    place = record.partition, record.offset, record.timestamp, record.key
    return Input(*place, kind, revision, _digest(record.value), has_neighbors, attributes)


def _is_id(key: bytes | None) -> bool:
    try:
        return 0 < len((key or b"").decode()) <= MAX_ID_CHARS
    except UnicodeDecodeError:
        return False


def _revision(key: bytes | None, value: bytes, dims: Mapping[str, int]) -> int | None:
    """The revision of a NewItem message, or None for what no worker could take."""
    try:
        item = msgpack.unpackb(value)
        features, revision = item.get("features", {}), item["revision"]
        fits = (
            item["item_id"].encode() == key
            and not item.get("partial", False)
            and (not dims or any(name in dims for name in features) or "content" in item)
            and all(features[name]["shape"][-1] == size for name, size in dims.items() if name in features)
        )
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return None
    return revision if fits and type(revision) is int else None


def read_output(record: Any) -> Output:
    place = record.partition, record.offset, record.timestamp, record.key
    if record.value is None:
        source = dict(record.headers).get(SOURCE_OFFSET_HEADER) or b""
        return Output(*place, Kind.DELETE, int(source) if source.isdigit() else None)
    try:
        item = decode_vector(ItemVector, record.value, check_values=False)  # the vector's length tells
    except SchemaError as error:
        return Output(*place, Kind.UPSERT, None, problem=f"does not decode: {error}")
    return Output(
        *place,
        Kind.UPSERT,
        item.source_offset,
        item.revision,
        item.space_id,
        item.vector.dims,
        _digest(item.vector.data),
        _vector_problem(item) if item.key == record.key else f"holds item {item.item_id!r}",
        item.attributes,
    )


def read_letter(record: Any) -> Letter:
    place = record.partition, record.offset
    try:
        letter = decode(DeadLetter, record.value or b"")
    except SchemaError as error:
        return Letter(*place, "", (0, 0), 0, record.key, b"", "", f"does not decode: {error}")
    return Letter(
        *place,
        letter.topic,
        (letter.partition, letter.offset),
        letter.timestamp,
        letter.key,
        _digest(letter.value),
        str(letter.reason),
    )


def _vector_problem(item: ItemVector) -> str:
    if not all_finite((item.modality_vectors or {}).values()):
        return "has a modality vector with NaN or infinite elements"
    values = item.vector.to_numpy().astype(np.float32, copy=False)
    length = math.sqrt(float(values @ values))  # NaN if any element is
    is_unit = abs(length - 1) <= LENGTH_TOLERANCE[item.vector.dtype]
    return "" if is_unit else f"has length {length:.6f} in {item.vector.dtype}, not 1"


def _digest(value: bytes | None) -> bytes:
    return b"" if value is None else hashlib.sha1(value, usedforsecurity=False).digest()


def scrape(url: str) -> Accounts:
    """A live worker's counters, by input topic."""
    with urllib.request.urlopen(url, timeout=10) as response:
        return parse_counters(response.read().decode())


def parse_counters(page: str) -> Accounts:
    """The record counters of a metrics page, summed over all labels but `topic`."""
    accounts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name in _METRICS:
                accounts[sample.labels["topic"]][_METRICS[sample.name]] += sample.value
    return accounts


def client_options(bootstrap_servers: str, api_version: Sequence[int] | None = None) -> dict[str, Any]:
    """Options of a kafka-python client; `api_version` is for the embedded broker."""
    options: dict[str, Any] = {"bootstrap_servers": bootstrap_servers.split(",")}
    return options if api_version is None else options | {"api_version": tuple(api_version)}
