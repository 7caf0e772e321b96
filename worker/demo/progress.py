"""Output of the demo."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import numpy as np

NUM_RECENT = 2_000  # latencies that the figures on the way are of


class Progress:
    """One line that is written over on a terminal, one line a second elsewhere."""

    def __init__(self, total: int, unit: str) -> None:
        self._total = total
        self._unit = unit
        self._started = time.monotonic()
        self._next = 0.0
        self._width = 0

    def show(self, count: int, latencies_ms: Sequence[float]) -> None:
        now = time.monotonic()
        if now < self._next or not latencies_ms:
            return
        self._next = now + (0.2 if sys.stdout.isatty() else 1.0)
        p50, p99 = np.percentile(latencies_ms[-NUM_RECENT:], [50, 99])
        rate = count / max(1e-9, now - self._started)
        self._write(
            f"  {count:>7} / {self._total}  {rate:>8,.0f} {self._unit}/s  p50 {p50:>5.0f} ms  p99 {p99:>5.0f} ms"
        )

    def done(self, text: str) -> None:
        self._write(f"  {text}")
        if sys.stdout.isatty():
            print()

    def _write(self, line: str) -> None:
        if sys.stdout.isatty():
            print("\r" + line.ljust(self._width), end="", flush=True)
            self._width = len(line)
        else:
            say(line)


def latency_text(latencies_ms: Sequence[float]) -> str:
    p50, p99 = np.percentile(latencies_ms, [50, 99])
    return f"p50 {p50:.0f} ms, p99 {p99:.0f} ms"


def say(line: str) -> None:
    print(line, flush=True)
