"""A registry that does not answer, whatever way: no record is refused for it, and it is asked until it does."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from schemas import SchemaError
from tests.brokers.certificates import Authority
from tests.contract.mapping.samples import record, to_avro
from tests.registry import SchemaRegistry
from worker.errors import AccessError, UnreachableError
from worker.mapping.registry import AwaitedError, ConfluentRegistry
from worker.mapping.source import ItemSource, item_source
from worker.settings import RegistrySettings

SCHEMA = {"type": "record", "name": "P", "fields": [{"name": "sku", "type": "string"}]}
MAPPING = "items: {item_id: sku, content: {text: sku}}"
TIMEOUT_S = 0.5


@pytest.fixture
def registry() -> Iterator[SchemaRegistry]:
    with SchemaRegistry() as started:
        yield started


@pytest.fixture
def opened() -> Iterator[list[ConfluentRegistry]]:
    made: list[ConfluentRegistry] = []
    yield made
    for each in made:
        each.close()


@pytest.fixture
def reader(tmp_path: Path, opened: list[ConfluentRegistry]) -> Callable[..., ItemSource]:
    def make(url: str, wait_s: float | None = 0.05, **settings: object) -> ItemSource:
        path = tmp_path / "shop.yaml"
        path.write_text(MAPPING)
        opened.append(ConfluentRegistry(RegistrySettings(url=url, timeout_s=TIMEOUT_S, **settings), wait_s=wait_s))
        return item_source("input.items", "avro", path, opened[-1])

    return make


def value(schema_id: int = 1) -> bytes:
    return to_avro(SCHEMA, {"sku": "sku-1"}, schema_id)


def read(source: ItemSource, schema_id: int = 1) -> str:
    return str(source.read(record(value(schema_id)))["item_id"])  # type: ignore[index]


def awaited(source: ItemSource, schema_id: int = 1) -> AwaitedError:
    with pytest.raises(AwaitedError) as raised:
        read(source, schema_id)
    return raised.value


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def answer(body: bytes, status: str = "200 OK") -> Callable[[BinaryIO], object]:
    head = f"HTTP/1.0 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return lambda out: out.write(head + body)


def silence(out: BinaryIO) -> None:
    time.sleep(2 * TIMEOUT_S)


def drip(out: BinaryIO) -> None:
    """Never the whole answer, and never silent for long."""
    out.write(b"HTTP/1.0 200 OK\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(40):
        out.write(b" ")
        out.flush()
        time.sleep(TIMEOUT_S / 10)


FAULTS: dict[str, tuple[Callable[[BinaryIO], object], str]] = {
    "a status of 5xx": (answer(b"{}", "500 Oops"), "answers 500"),
    "too many requests": (answer(b"{}", "429 Slow"), "answers 429"),
    "another status": (answer(b'{"error_code": 42201, "message": "x"}', "422 No"), "answers 422"),
    "a redirect": (answer(b"", "302 Found"), "answers 302"),
    "somebody else's 404 in HTML": (answer(b"<html>Not Found</html>", "404 Not Found"), "not as a schema registry"),
    "somebody else's 404 in JSON": (answer(b'{"error_code": 404}', "404 Not Found"), "not as a schema registry"),
    "HTML": (answer(b"<html>Welcome</html>"), "answers nonsense"),
    "nothing": (answer(b""), "answers nonsense"),
    "an object of something else": (answer(b'{"hello": "world"}'), "its answer is no schema"),
    "a schema that is null": (answer(b'{"schema": null}'), "its answer is no schema"),
    "a schema that is a number": (answer(b'{"schema": 7}'), "its answer is no schema"),
    "a list": (answer(b"[1]"), "answers nonsense"),
    "no HTTP": (lambda out: out.write(b"SSH-2.0-x\r\n"), "cannot be reached"),
    "an answer that breaks off": (lambda out: out.write(b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n{"),
                                  "cannot be reached"),
    "no answer": (silence, "(cannot be reached|has not answered)"),
    "an answer that never ends": (drip, "has not answered in 0.5 s"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_the_registry_s_fault_is_waited_for_and_read_in_the_end(
    name: str, registry: SchemaRegistry, reader: Callable[..., ItemSource]
) -> None:
    registry.nonsense, told = FAULTS[name]
    registry.register("p-value", json.dumps(SCHEMA))
    source = reader(registry.url)
    lookup = awaited(source).lookup
    until(lambda: "yet" not in lookup.detail)
    assert re.match(rf"input\.registry\.url: the schema registry at {registry.url} .*{told}", str(awaited(source)))
    registry.nonsense = None
    until(lambda: lookup.is_settled)
    assert read(source) == "sku-1"
    assert read(source) == "sku-1"


def unused_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("url", ["http://{unused}", "http://nobody.invalid:8081", "https://{registry}"], ids=str)
def test_a_registry_that_is_not_there_is_waited_for(
    url: str, registry: SchemaRegistry, reader: Callable[..., ItemSource]
) -> None:
    address = registry.url.removeprefix("http://")
    source = reader(url.format(unused=unused_address(), registry=address))
    lookup = awaited(source).lookup
    until(lambda: "yet" not in lookup.detail)
    assert "cannot be reached (Connect" in lookup.detail or "has not answered" in lookup.detail
    assert not lookup.is_settled


def test_a_certificate_that_is_not_trusted_names_the_setting(tmp_path: Path, reader: Callable[..., ItemSource]) -> None:
    ours, other = (Authority(tmp_path, name) for name in ("ours", "other"))
    with SchemaRegistry(identity=ours.issue("registry", ("127.0.0.1",))) as registry:
        registry.register("p-value", json.dumps(SCHEMA))
        lookup = awaited(reader(registry.url, wait_s=5.0, ssl_cafile=other.certificate)).lookup
        assert "input.registry.ssl_cafile" in lookup.detail
        assert read(reader(registry.url, wait_s=20.0, ssl_cafile=ours.certificate)) == "sku-1"


@pytest.mark.parametrize("status", [401, 403])
def test_a_registry_that_refuses_us_is_not_waited_for(
    status: int, registry: SchemaRegistry, reader: Callable[..., ItemSource]
) -> None:
    registry.status = status
    with pytest.raises(AccessError, match=rf"refuses us \({status}\): see input\.registry\.username"):
        read(reader(registry.url, wait_s=20.0))


def test_who_has_nothing_else_to_do_waits_as_long_as_an_answer_may_take(
    registry: SchemaRegistry, reader: Callable[..., ItemSource]
) -> None:
    registry.status = 503
    source = reader(registry.url, wait_s=None)
    started = time.monotonic()
    with pytest.raises(UnreachableError, match="answers 503"):
        read(source)
    assert time.monotonic() - started >= TIMEOUT_S


def test_the_second_of_two_addresses_is_asked_within_the_time_for_one_answer(
    registry: SchemaRegistry, reader: Callable[..., ItemSource]
) -> None:
    registry.register("p-value", json.dumps(SCHEMA))
    with SchemaRegistry() as silent:
        silent.nonsense = silence
        lookup = awaited(reader(f"{silent.url},{registry.url}")).lookup
        until(lambda: lookup.is_settled)


def test_a_schema_that_is_not_there_is_the_record_s_fault(
    registry: SchemaRegistry, reader: Callable[..., ItemSource]
) -> None:
    with pytest.raises(SchemaError, match="has schema 9, which the registry does not know"):
        read(reader(registry.url, wait_s=20.0), 9)


def test_a_schema_whose_reference_cannot_be_had_is_waited_for(
    registry: SchemaRegistry, reader: Callable[..., ItemSource]
) -> None:
    price = {"type": "record", "name": "Price", "fields": [{"name": "eur", "type": "double"}]}
    registry.register("Price", json.dumps(price))
    named = [{"name": "Price", "subject": "Price", "version": 1}]
    offer = {**SCHEMA, "fields": [*SCHEMA["fields"], {"name": "price", "type": ["null", "Price"]}]}
    schema_id = registry.register("p-value", json.dumps(offer), references=named)
    told, asked = registry.answer, []

    def only_ids(method: str, url: str, body: bytes, authorization: str) -> tuple[int, object]:
        asked.append(url)
        return told(method, url, body, authorization) if "/ids/" in url else (500, {})

    registry.answer = only_ids  # type: ignore[method-assign]
    source = reader(registry.url)
    data = value(schema_id) + b"\x00"
    with pytest.raises(AwaitedError) as raised:
        source.read(record(data))
    until(lambda: any("/subjects/" in url for url in asked))
    registry.answer = told  # type: ignore[method-assign]
    until(lambda: raised.value.lookup.is_settled)
    assert source.read(record(data))["item_id"] == "sku-1"  # type: ignore[index]
