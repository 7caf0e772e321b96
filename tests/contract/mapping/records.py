"""Records of other systems, broken in every way: each must become a message, a deletion, nothing by the mapping's own
word, or a refusal that names a field and the mapping.

    python -m tests.contract.mapping.records --records 100000
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from schemas import NewItem, SchemaError, UserEvent, decode
from tests.contract.mapping.samples import (
    AVRO_SCHEMA,
    CLICK,
    CLOUDEVENT,
    CLOUDEVENTS,
    DEBEZIUM,
    PRODUCT,
    ROW,
    SHOP,
    TIME_MS,
    change,
    record,
    to_avro,
    to_json,
    with_schema,
)
from tests.fakes import FakeRecord
from tests.registry import SchemaRegistry
from worker.mapping.inputs import make_registry
from worker.mapping.items import Deletion, Skipped
from worker.mapping.source import EventSource, ItemSource, event_source, item_source
from worker.settings import RegistrySettings

AVRO = """\
items:
  item_id: sku
  revision: {path: updated_at, unit: ms}
  event_time: updated_at
  content: {text: "{title}. {desc}", image: {uri: img_url}}
  attributes: {price: price}
"""
ODD: Sequence[Any] = (
    None, "", "x", "\x00", "ä" * 700, 0, -1, 1.5, 1e308, 2**63, 2**70, True, False, [], {}, [None], ["a", 1], {"a": {}},
    "2026-02-30", "9999-12-31T23:59:59+00:00", "0001-01-01",
    1_767_225_600, 1_767_225_600_000_000, "NaN", "1e400", "%%%",
    [[]], [[1], [2]], "x" * 300_000,
)  # fmt: skip


class Kind(NamedTuple):
    """One kind of records, and what reads them."""

    source: ItemSource | EventSource
    good: Sequence[Any]
    """Values before they are written."""
    write: Callable[[Any], bytes]
    key: bytes
    headers: Sequence[tuple[str, bytes]] = ()


def kinds(directory: Path, registry: SchemaRegistry) -> dict[str, Kind]:
    made = make_registry(RegistrySettings(url=registry.url))

    def file(name: str, text: str) -> Path:
        path = directory / name
        path.write_text(text)
        return path

    shop, rows = file("shop.yaml", SHOP), file("rows.yaml", DEBEZIUM)
    schema_id = registry.register("products-value", json.dumps(AVRO_SCHEMA))
    product = {"sku": "sku-1", "title": "Kettle", "desc": None, "img_url": "http://a/b", "price": Decimal("9.90"),
               "updated_at": TIME_MS}  # fmt: skip
    plain = [change("c", None, ROW), change("u", ROW, ROW), change("r", None, ROW), change("d", ROW, None)]
    attributes = [(f"ce_{name}", text.encode()) for name, text in CLOUDEVENT.items() if isinstance(text, str)]
    return {
        "json items": Kind(item_source("input.items", "json", shop, None), [PRODUCT], to_json, b"sku-1"),
        "json events": Kind(event_source("input.events", "json", shop, None), [CLICK], to_json, b"s-9"),
        "debezium": Kind(
            item_source("input.items", "json", rows, None),
            [*plain, *map(with_schema, plain)],
            to_json,
            to_json({"sku": "sku-1"}),
        ),
        "cloudevents": Kind(
            item_source("input.items", "json", file("ce.yaml", CLOUDEVENTS), None), [CLOUDEVENT], to_json, b"sku-1"
        ),
        "binary cloudevents": Kind(
            item_source("input.items", "json", file("ce2.yaml", CLOUDEVENTS), None),
            [CLOUDEVENT["data"]],
            to_json,
            b"sku-1",
            attributes,
        ),
        "avro": Kind(
            item_source("input.items", "avro", file("avro.yaml", AVRO), made),
            [product],
            lambda value: to_avro(AVRO_SCHEMA, value, schema_id),
            b"sku-1",
        ),
    }


def mutated(kind: Kind, random: random.Random) -> FakeRecord:
    """A record with one or several things wrong with it: in its values, or in its bytes."""
    value = random.choice(kind.good)
    data = kind.write(value)
    is_binary = data[:1] == b"\x00"
    if not is_binary and random.random() < 0.6:
        value = json.loads(data)
        for _ in range(random.choice((1, 1, 1, 2, 5))):
            value = with_one_change(value, random)
        data = to_json(value)
    if is_binary or random.random() < 0.4:
        data = broken(data, random)
    key: bytes | None = kind.key
    if random.random() < 0.1:
        key = random.choice((None, b"", b"\xff", b"other", broken(kind.key, random)))
    headers = [(name, broken(text, random) if random.random() < 0.05 else text) for name, text in kind.headers]
    if random.random() < 0.02:
        return record(None, key, headers)
    return record(data, key, headers)


def with_one_change(value: Any, random: random.Random) -> Any:
    """One value, anywhere inside, exchanged, renamed or left out."""
    if not isinstance(value, dict) or not value or random.random() < 0.05:
        return random.choice(ODD)
    name = random.choice(list(value))
    inner = value[name]
    if isinstance(inner, dict) and inner and random.random() < 0.6:
        return {**value, name: with_one_change(inner, random)}
    choice = random.random()
    if choice < 0.2:
        return {key: each for key, each in value.items() if key != name}
    if choice < 0.3:
        return {(f"{key}x" if key == name else key): each for key, each in value.items()}
    return {**value, name: random.choice(ODD)}


def broken(data: bytes, random: random.Random) -> bytes:
    """Bytes exchanged, left out, doubled or cut off."""
    if not data:
        return random.randbytes(random.randrange(20))
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        position = random.randrange(len(changed) + 1)
        match random.randrange(5):
            case 0 if position < len(changed):
                changed[position] = random.randrange(256)
            case 1:
                del changed[position : position + random.randrange(1, 9)]
            case 2:
                changed[position:position] = random.randbytes(random.randrange(1, 9))
            case 3:
                changed[position:position] = changed[position : position + 40]
            case _:
                del changed[position:]
    return bytes(changed)


def outcome(kind: Kind, each: FakeRecord) -> str:
    """What became of a record. Raises `AssertionError` for anything but the four."""
    source = kind.source
    try:
        if each.value is None and isinstance(source, ItemSource):
            _, found = source.deleted_by(each)
        else:
            _, found = source.read_in_place(each)  # type: ignore[assignment]
            if isinstance(found, NewItem | UserEvent):
                fields = source.read(each)
                assert decode(type(found), source.packed(fields)) == found  # type: ignore[arg-type]
    except SchemaError as error:
        refusal = error
    else:
        return "deleted" if isinstance(found, Deletion) else "skipped" if isinstance(found, Skipped) else "message"
    told = str(refusal)
    assert refusal.field, told
    assert source.file.name in told, told
    assert "\n" not in told
    assert len(told) < 1_000, told
    return f"refused: {refusal.reason.value}"


def campaign(num_records: int, directory: Path, seed: int = 1) -> dict[str, Counter[str]]:
    """What became of so many records, by kind."""
    found: dict[str, Counter[str]] = {}
    with SchemaRegistry() as registry:
        made = kinds(directory, registry)
        for number, (name, kind) in enumerate(made.items()):
            source = random.Random(seed * 1_000 + number)
            share = num_records // len(made) + (number < num_records % len(made))
            found[name] = Counter(outcome(kind, mutated(kind, source)) for _ in range(share))
    return found


def lines(found: dict[str, Counter[str]]) -> Iterator[str]:
    for name, counts in found.items():
        told = ", ".join(f"{outcome} {count:,}" for outcome, count in sorted(counts.items()))
        yield f"{name}: {sum(counts.values()):,} records: {told}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as made_in:
        for line in lines(campaign(arguments.records, Path(made_in), arguments.seed)):
            print(line)
    print(f"all accounted for, in {time.monotonic() - started:.0f} s")
