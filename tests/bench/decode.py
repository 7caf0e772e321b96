"""What decoding and encoding one message costs, part by part.

    python -m tests.bench.decode [--seconds 10]

The item is the one of the other benchmarks: text 768, image 512 and audio 512 as float16, 3.8 KB. Cases take turns, and
each counts with its fastest round, so that a slow spell of the machine hits all of them or none. Compare ratios.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np

from schemas import (
    Feature,
    ItemVector,
    NewItem,
    Tensor,
    all_finite,
    decode,
    decode_item,
    encode,
    encode_item_vector,
    suspects,
)
from tests.bench.host import host_line

DIMS = {"text": 768, "image": 512, "audio": 512}
POLL_ITEMS = 512
VECTOR_DIMS = 256


def item() -> NewItem:
    rng = np.random.default_rng(0)
    return NewItem(
        item_id="item-000123",
        revision=7,
        event_time_ms=1_767_225_600_000,
        features={
            modality: Feature.from_numpy(rng.standard_normal(dims), encoder=f"{modality}-encoder")
            for modality, dims in DIMS.items()
        },
    )


def vector_values() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "item_id": "item-000123",
        "revision": 7,
        "event_time_ms": 1_767_225_600_000,
        "space_id": "5f2c8e0a91d34b77",
        "modalities": ("audio", "image", "text"),
        "produced_at_ms": 1_767_225_600_250,
        "source_offset": 123_456,
        "tensor": Tensor.from_numpy(rng.standard_normal(VECTOR_DIMS) / 16),
    }


def numpy_finite(tensors: list[Feature]) -> bool:
    """What `all_finite` would be with numpy's own test."""
    return bool(np.isfinite(np.frombuffer(b"".join([tensor.data for tensor in tensors]), "<f2")).all())


def cases() -> dict[str, tuple[Callable[[], object], int]]:
    """Name of each case, what it runs, and how many messages that is."""
    new_item = item()
    data = encode(new_item)
    tensors = [feature for _ in range(POLL_ITEMS) for feature in item().features.values()]
    features = [item().features] * POLL_ITEMS
    values = vector_values()
    tensor = values.pop("tensor")
    vector = ItemVector(**values, vector=tensor)
    vector_data = encode(vector)
    of_item = (values["item_id"], values["revision"], values["event_time_ms"], values["space_id"])
    of_tensor = (tensor.dtype, tensor.shape, tensor.data)
    fast = (*of_item, *of_tensor, values["modalities"], values["produced_at_ms"], values["source_offset"])
    assert decode(NewItem, data) == new_item
    assert encode_item_vector(*fast) == vector_data
    return {
        "item: msgpack.unpackb alone": (lambda: msgpack.unpackb(data), 1),
        "item: decode, check_values=False": (lambda: decode(NewItem, data, check_values=False), 1),
        "item: decode_item": (lambda: decode_item(data), 1),
        f"item: suspects, {POLL_ITEMS} items at once": (lambda: suspects(features), POLL_ITEMS),
        f"item: all_finite, {POLL_ITEMS} items at once": (lambda: all_finite(tensors), POLL_ITEMS),
        f"item: numpy.isfinite, {POLL_ITEMS} items at once": (lambda: numpy_finite(tensors), POLL_ITEMS),
        "item: decode": (lambda: decode(NewItem, data), 1),
        "item: encode": (lambda: encode(new_item), 1),
        "vector: decode, check_values=False": (lambda: decode(ItemVector, vector_data, check_values=False), 1),
        "vector: ItemVector(…) and encode": (lambda: encode(ItemVector(**values, vector=tensor)), 1),
        "vector: encode": (lambda: encode(vector), 1),
        "vector: encode_item_vector": (lambda: encode_item_vector(*fast), 1),
    }


def fastest_us(runs: dict[str, tuple[Callable[[], object], int]], seconds: float) -> dict[str, float]:
    """Microseconds per message of each case's fastest round."""
    best = dict.fromkeys(runs, float("inf"))
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        for name, (run, messages) in runs.items():
            repeats = max(5, 500 // messages)
            started = time.perf_counter()
            for _ in range(repeats):
                run()
            best[name] = min(best[name], (time.perf_counter() - started) / repeats / messages * 1e6)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to measure, all cases together")
    best = fastest_us(cases(), parser.parse_args().seconds)
    unpack = next(iter(best.values()))
    print(f"host: {host_line()}")
    print(f"item of {len(encode(item()))} bytes; vector of {VECTOR_DIMS} x float16")
    print(f"{'':44} {'µs/message':>10} {'x unpackb':>10}")
    for name, cost in best.items():
        print(f"{name:44} {cost:>10.2f} {cost / unpack:>10.2f}")


if __name__ == "__main__":
    main()
