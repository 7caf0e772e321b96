"""One message of each kind with every field set, and the files that hold its bytes and its JSON Schema.

`python -m tests.contract.schemas.golden` writes the files of the current version. The bytes of a version never change
once it is released; its JSON Schema may gain optional fields.
"""

from __future__ import annotations

import json
from pathlib import Path

from schemas import (
    MESSAGES,
    Content,
    DeadLetter,
    Feature,
    ItemVector,
    Message,
    NewItem,
    Reason,
    Tensor,
    UserEvent,
    UserVector,
    encode,
    json_schema,
)

FOLDER = Path(__file__).with_name("golden")
LATER: dict[str, set[str]] = {
    "NewItem": {"attributes"},
    "ItemVector": {"base_vector", "attributes", "codes", "code_space_id", "disambiguator"},
    "DeadLetter": {"header_names", "original_bytes", "value_sha256"},
}
"""Optional fields that version 1 has gained since its bytes were written, by message: the example has none of them."""
HALVES = Tensor(dtype="f2", shape=(4,), data=bytes.fromhex("0038 0038 0038 00b8"))

EXAMPLES: dict[str, Message] = {
    "NewItem": NewItem(
        item_id="item-1",
        revision=7,
        event_time_ms=1_767_225_600_000,
        features={
            "text": Feature(dtype="f2", shape=(2,), data=bytes.fromhex("003c 00c0"), encoder="minilm-l6-v2"),
            "image": Feature(dtype="i1", shape=(2, 3), data=bytes.fromhex("010203fffefd"), scale=0.5, encoder="clip"),
            "audio": Feature(dtype="bf2", shape=(1,), data=bytes.fromhex("803f"), encoder="clap"),
            "video": Feature(dtype="f4", shape=(1,), data=bytes.fromhex("0000803f"), encoder="frames-4"),
        },
        content={
            "text": Content(text="Grüße", media_type="text/plain"),
            "image": Content(uri="s3://shop/item-1.jpg"),
            "audio": Content(data=b"RIFF", media_type="audio/wav"),
        },
        neighbors=("item-2", "item-3"),
        partial=True,
    ),
    "UserEvent": UserEvent(
        event_id="event-1",
        user_id="user-1",
        item_id="item-1",
        event_type="view",
        event_time_ms=1_767_225_600_000,
        value=12.5,
    ),
    "ItemVector": ItemVector(
        item_id="item-1",
        revision=7,
        event_time_ms=1_767_225_600_000,
        space_id="5f2c",
        vector=HALVES,
        modalities=("image", "text"),
        prior=-0.25,
        modality_vectors={"image": HALVES, "text": HALVES},
        produced_at_ms=1_767_225_600_250,
        source_offset=42,
    ),
    "UserVector": UserVector(
        user_id="user-1",
        event_time_ms=1_767_225_600_000,
        num_events=3,
        space_id="5f2c",
        vector=HALVES,
        produced_at_ms=1_767_225_600_250,
    ),
    "DeadLetter": DeadLetter(
        key=b"item-1",
        value=b"\xc1",
        headers=(("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("empty", None)),
        topic="items",
        partition=3,
        offset=42,
        timestamp=1_767_225_600_000,
        reason=Reason.NOT_MSGPACK,
        stage="decode",
        detail="the value is not a complete msgpack message",
        worker_version="0.1.0",
        space_id="5f2c",
        failed_at_ms=1_767_225_600_250,
    ),
}


def bytes_file(name: str, version: int) -> Path:
    return FOLDER / f"{name}.v{version}.msgpack"


def schema_file(name: str, version: int) -> Path:
    return FOLDER / f"{name}.v{version}.schema.json"


def schema_text(name: str) -> str:
    return json.dumps(json_schema(name), indent=2, ensure_ascii=False) + "\n"


def write() -> None:
    for name, message in MESSAGES.items():
        bytes_file(name, message.version).write_bytes(encode(EXAMPLES[name]))
        schema_file(name, message.version).write_text(schema_text(name), encoding="utf-8")


if __name__ == "__main__":
    write()
