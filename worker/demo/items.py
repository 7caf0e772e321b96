"""The first half of the demo: a catalogue becomes vectors, and its structure is found again among them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from worker.demo.outside import Outside
from worker.demo.progress import Progress, latency_text, say
from worker.synthetic import MODALITIES, THEMES, SyntheticItem

MAX_OUTSTANDING = 3_000  # the embedded broker keeps 5 MB per partition, so the feed must not run away
NUM_SHOWN = 3
NUM_NEIGHBORS = 5


def load(outside: Outside, items: Iterator[SyntheticItem], num_items: int) -> None:
    """A whole catalogue as fast as the worker takes it."""
    say(f"\nfeeding {num_items} items with {', '.join(MODALITIES)}")
    progress = Progress(num_items, "items")
    started = time.monotonic()

    def feed() -> None:
        room = MAX_OUTSTANDING - (len(outside.fed) - len(outside.items))
        for item in islice(items, max(0, min(room, num_items - len(outside.fed), 500))):
            outside.send_item(item)
        progress.show(len(outside.items), outside.item_latencies_ms)

    outside.until(lambda: len(outside.items) >= num_items, "the catalogue", feed)
    elapsed = time.monotonic() - started
    progress.done(f"{num_items / elapsed:,.0f} items/s over {elapsed:.1f} s")


def live(outside: Outside, items: Iterator[SyntheticItem], rate: float, seconds: float) -> None:
    """A steady trickle: what a new item's vector takes to be readable."""
    say(f"\nnow {rate:.0f} new items a second for {seconds:.0f} s")
    outside.item_latencies_ms.clear()
    progress = Progress(int(rate * seconds), "items")
    for due in steadily(rate, seconds):
        for item in islice(items, due):
            outside.send_item(item)
        outside.read(0.002)
        progress.show(len(outside.item_latencies_ms), outside.item_latencies_ms)
    outside.until(lambda: len(outside.items) == len(outside.fed), "the last items")
    num_fed = len(outside.item_latencies_ms)
    progress.done(f"produce → readable vector: {latency_text(outside.item_latencies_ms)} ({num_fed} items)")


def steadily(rate: float, seconds: float) -> Iterator[int]:
    """Yield how many are due since the last step; steps take as long as the caller takes."""
    started, num_due = time.monotonic(), 0
    while (elapsed := time.monotonic() - started) < seconds:
        due = int(elapsed * rate) - num_due
        num_due += due
        yield due


def show_neighbors(outside: Outside) -> None:
    """Show that the structure of the catalogue is found again among the vectors."""
    ids = list(outside.items)
    vectors_ND = np.stack([outside.items[item_id] for item_id in ids])
    themes_N = np.array([outside.fed[item_id].theme for item_id in ids])
    say("\nnearest neighbours by cosine, among all vectors read from the output topic")
    for row in _first_of_themes(themes_N, NUM_SHOWN):
        say(f"  {outside.fed[ids[row]].title}")
        for other in _nearest(vectors_ND, row, NUM_NEIGHBORS):
            say(f"      {vectors_ND[row] @ vectors_ND[other]:.3f}  {outside.fed[ids[other]].title}")
    sample = range(0, len(ids), max(1, len(ids) // 300))
    same = np.mean([np.mean(themes_N[_nearest(vectors_ND, row, 10)] == themes_N[row]) for row in sample])
    say(f"of the 10 nearest, {same:.0%} share the item's theme; by chance it would be {1 / len(THEMES):.0%}")


def _nearest(vectors_ND: NDArray[np.float32], row: int, count: int) -> NDArray[np.int64]:
    scores_N = vectors_ND @ vectors_ND[row]
    scores_N[row] = -np.inf
    best = np.argpartition(-scores_N, count)[:count]
    nearest: NDArray[np.int64] = best[np.argsort(-scores_N[best])]
    return nearest


def _first_of_themes(themes_N: NDArray[np.int64], count: int) -> Iterable[int]:
    return [int(np.flatnonzero(themes_N == theme)[0]) for theme in sorted(set(themes_N.tolist()))[:count]]
