"""Broken messages: valid ones with bits, spans or msgpack values changed, and bytes that were never one.

Everything is drawn from the generator handed in, so a case can be made again from its seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import msgpack

Node = Any
"""A msgpack value as lists: `Map` for a map, so that keys can repeat, and `Raw` for bytes that go out as they are."""


class Map(list[tuple[Node, Node]]):
    """A map's entries in order."""


class Raw(bytes):
    """Bytes already encoded, valid or not."""


ODD_VALUES: list[Node] = [
    None, True, False, 0, -1, 1, 2, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 0.0, -0.0, 1.5, float("nan"), float("inf"),
    -float("inf"), 1e308, "", "x", "x" * 600, "\0", "é" * 129, "\u202e", b"", b"\xff" * 6, b"x" * 5000, [], [[]], [0],
    [2**63], ["a", 1, None], [1.0], [1, 2, 3], [16_385], [1_025, 1], Map(), Map([("a", 1)]), Map([("text", "x")]),
    Raw(b"\xc1"), Raw(b"\xd4\x05\x00"), Raw(b"\xd6\xff\0\0\0\0"), Raw(b"\xc7\x00\x05"), Raw(b"\xa2\xff\xfe"),
    Raw(b"\xdb\xff\xff\xff\xff"), Raw(b"\xc6\x7f\xff\xff\xff"), Raw(b"\xdd\0\0\4\0"), Raw(b"\xdf\xff\xff\xff\xff"),
    Raw(b"\x91" * 40 + b"\xc0"), Raw(b"\x91" * 2_000 + b"\xc0"), Raw(b"\x81\xa1k" * 300 + b"\xc0"),
    Raw(b"\x80" * 3), Raw(b"\xca\x7f\x80\x00\x00"), Raw(b"\x9f" + b"\x90" * 15),
]  # fmt: skip
ODD_KEYS: list[Node] = [
    "", "item_id", "schema_version", "features", "shape", "data", "unknown", "k" * 200, 0, -1, None, True, 1.5,
    float("nan"), b"item_id", b"\xff", [], [1], Map(), Raw(b"\xa1\xff"), Raw(b"\xd4\x05\x00"), Raw(b"\xc1"),
]  # fmt: skip


def broken(rng: random.Random, seeds: list[bytes]) -> bytes:
    """One case: usually a few mutations of a seed, sometimes noise."""
    if rng.random() < 0.08:
        return _noise(rng)
    data = rng.choice(seeds)
    changed = rng.random() < 0.75
    if changed:
        data = _with_values_changed(rng, data)
    if not changed or rng.random() < 0.2:
        for _ in range(rng.choice((1, 1, 2, 4))):
            data = rng.choice(SPANS)(rng, data, seeds)
    return data


def _noise(rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return rng.randbytes(rng.randrange(64))
    return b"".join(_packed(rng.choice(ODD_VALUES)) for _ in range(rng.randrange(4)))


def _with_values_changed(rng: random.Random, data: bytes) -> bytes:
    root = _tree(msgpack.unpackb(data))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _change(rng, rng.choice(_maps_and_arrays(root)))
    return _packed(root)


def _change(rng: random.Random, node: Map | list[Node]) -> None:
    """Changes one map or array in place: a value, a key, a repeated, dropped or added entry, the order."""
    where = rng.randrange(len(node) + 1)
    value, odd_key = deepcopy(rng.choice(ODD_VALUES)), deepcopy(rng.choice(ODD_KEYS))
    entry = (odd_key, value) if isinstance(node, Map) else value
    if where == len(node) or rng.random() < 0.15:
        node.insert(where, entry)
    elif (action := rng.randrange(9)) == 0:
        del node[where]
    elif action == 1:
        node.append(node[where])
    elif action == 2:
        rng.shuffle(node)
    elif isinstance(node, Map):
        key, old = node[where]
        node[where] = (odd_key, old) if action == 3 else (key, value if action == 4 else _near(rng, old))
    else:
        node[where] = value if action < 5 else _near(rng, node[where])


def _near(rng: random.Random, value: Node) -> Node:
    """A value of the same type that is often just wrong, or just right."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return rng.choice((value ^ 1, float(value)))
    if isinstance(value, bytes):
        return rng.choice((b"\xff" * len(value), rng.randbytes(len(value)), value + b"\0", value[1:]))
    return value * 2 if isinstance(value, str) else value


def _tree(value: Any) -> Node:
    if isinstance(value, dict):
        return Map((key, _tree(entry)) for key, entry in value.items())
    return [_tree(entry) for entry in value] if isinstance(value, list) else value


def _maps_and_arrays(node: Node) -> list[Map | list[Node]]:
    if not isinstance(node, list):
        return []
    children = [value for _, value in node] if isinstance(node, Map) else node
    return [node, *(inner for child in children for inner in _maps_and_arrays(child))]


def _packed(node: Node) -> bytes:
    packer = msgpack.Packer()
    if isinstance(node, Raw):
        return bytes(node)
    if isinstance(node, Map):
        header: bytes = packer.pack_map_header(len(node))
        return header + b"".join(_packed(key) + _packed(value) for key, value in node)
    if isinstance(node, list):
        header = packer.pack_array_header(len(node))
        return header + b"".join(map(_packed, node))
    packed: bytes = packer.pack(node)
    return packed


def _flip_bits(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 9) if data else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _delete(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.randrange(1, 17) :]


def _repeat(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    start = rng.randrange(len(data) + 1)
    end = start + rng.randrange(1, 33)
    return data[:end] + data[start:end] * rng.choice((1, 1, 2, 50)) + data[end:]


def _insert(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice((rng.randbytes(rng.randrange(1, 9)), _packed(rng.choice(ODD_VALUES)))) + data[at:]


def _splice(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    other = rng.choice(seeds)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other)) :]


SPANS: list[Callable[[random.Random, bytes, list[bytes]], bytes]] = [
    _flip_bits, _flip_bits, _truncate, _delete, _repeat, _insert, _splice,
]  # fmt: skip
