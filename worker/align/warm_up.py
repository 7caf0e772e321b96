"""Which arithmetic to use, and the report of what it costs beside the others.

`auto` is float32. To take what is fastest at the moment would let the load of a machine decide: two processes of one
fleet then fill one topic with vectors that differ by more than their rounding. What others would cost is timed all the
same, and told, because a name says nothing about speed: bfloat16 is 3.5 times faster than float32 on a CPU with
AVX512_BF16 and 7 times slower on one without.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from worker.align.collated import Collated
from worker.align.device import DtypeName
from worker.errors import ConfigError, SpaceError

MIN_COSINE = 0.999
"""Least agreement of a dtype's vectors with those of float32, over the items timed. Measured: README.md."""
HOPELESS = 3.0  # a dtype this much slower on the small batch is not timed on the large one
MAX_RUNS, MAX_SECONDS = 5, 0.15

Verdict = Literal["chosen", "chosen, inaccurate", "much slower", "inaccurate", "for comparison"]
Vectors = NDArray[np.float32]
Run = Callable[[Collated], Vectors]
"""Computes a batch to the end and returns the vectors of its items on the CPU."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One dtype that was tried."""

    dtype: DtypeName
    us_per_item: float | None
    """Microseconds per item at the batch size timed. None: too slow to time there."""
    min_cosine: float | None
    """Least cosine between one of its vectors and the float32 vector of the same item."""
    verdict: Verdict = "for comparison"

    @property
    def accurate(self) -> bool:
        return self.min_cosine is not None and self.min_cosine >= MIN_COSINE


@dataclass(frozen=True, slots=True)
class WarmUpReport:
    """The choice of a number format: asked for, active, and the ground it was chosen on."""

    space_id: str
    requested_device: str
    device: str
    device_name: str
    requested_dtype: str
    dtype: DtypeName
    threads: int
    timed_batch: int
    candidates: tuple[Candidate, ...]
    size_ms: Mapping[int, float]
    """One run of each padded size, milliseconds."""
    graphed: bool
    """False: the model runs eagerly, see `worker.align.graph`."""
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def one_line(self) -> str:
        tried = ", ".join(
            f"{candidate.dtype} {candidate.verdict}"
            + ("" if candidate.us_per_item is None else f" ({candidate.us_per_item:.1f} us/item)")
            for candidate in self.candidates
        )
        return (
            f"space {self.space_id} on {self.device} ({self.device_name}), {self.threads} threads, batches of "
            f"{self.timed_batch}: {tried}; ready in {self.seconds:.2f} s"
        )


def try_dtypes(
    requested: str, runs: Mapping[DtypeName, Run], small: Collated, large: Collated
) -> tuple[Candidate, ...]:
    """Time each dtype, float32 first. The verdicts are `decide`'s.

    A dtype that is hopeless on the small batch is not timed on the large one, unless it was asked for.
    """
    tried: list[Candidate] = []
    exact_vectors: Vectors | None = None
    most_small_s = float("inf")
    for dtype, run in runs.items():
        small_s = best_seconds(run, small)
        if small_s > most_small_s and dtype != requested:
            tried.append(Candidate(dtype, None, None))
            continue
        vectors = run(large)
        if exact_vectors is None:
            exact_vectors, most_small_s = vectors, HOPELESS * small_s
        us_per_item = best_seconds(run, large) / len(large.modalities) * 1e6
        tried.append(Candidate(dtype, us_per_item, _least_cosine(exact_vectors, vectors)))
    return decide(requested, tried)


def decide(requested: str, tried: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """The candidates with their verdicts; exactly one is `chosen`.

    Asked for by name, a dtype is taken if its vectors are finite, else `ConfigError`. With `auto` float32 is, whatever
    was measured. `SpaceError` if even float32 gives no finite vectors.
    """
    exact = tried[0]
    if not _finite(exact):
        raise SpaceError("space.path: the weights are finite, but the vectors they give are not")
    if requested == "auto":
        taken = exact
    else:
        taken = next(candidate for candidate in tried if candidate.dtype == requested)
        if not _finite(taken):
            raise ConfigError(f"dtype: {requested} cannot hold the values of this space; set dtype to auto or float32")
    return tuple(replace(candidate, verdict=_verdict(requested, candidate, taken)) for candidate in tried)


def chosen(candidates: Sequence[Candidate]) -> Candidate:
    return next(candidate for candidate in candidates if candidate.verdict.startswith("chosen"))


def _finite(candidate: Candidate) -> bool:
    return candidate.min_cosine is not None and math.isfinite(candidate.min_cosine)


def _verdict(requested: str, candidate: Candidate, taken: Candidate) -> Verdict:
    if candidate is taken:
        return "chosen" if candidate.accurate else "chosen, inaccurate"
    if candidate.us_per_item is None:
        return "much slower"
    return "for comparison" if candidate.accurate else "inaccurate"


def _least_cosine(exact_BD: Vectors, vectors_BD: Vectors) -> float:
    return float(np.min(np.einsum("bd,bd->b", exact_BD, vectors_BD)))


def best_seconds(run: Run, batch: Collated) -> float:
    """The fastest of a few runs after a first one."""
    run(batch)
    best, deadline = float("inf"), time.perf_counter() + MAX_SECONDS
    for _ in range(MAX_RUNS):
        started = time.perf_counter()
        run(batch)
        now = time.perf_counter()
        best = min(best, now - started)
        if now > deadline:
            break
    return best
