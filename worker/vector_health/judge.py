"""Sums of vectors against references: what is wrong with them, and how sure that is. Pure.

Everything statistical is brought to one scale, standard deviations of a normal distribution, by the distribution that
it has when nothing is wrong: sums of squares along axes are chi-square, and their cube roots nearly normal (Wilson and
Hilferty 1931). So one limit serves all, and nothing is tuned to a catalogue.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.vector_health.references import References
from worker.vector_health.sums import Sums

CHECKS = (
    "mean_shift", "components", "collapse", "rank", "modalities", "silent_inputs", "revision_jump", "alignment",
)  # fmt: skip
"""In the order in which they are shown."""


NESTED_AXES = (4, 8, 16, 32)


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on something is wrong."""

    deviations: float = 5.5
    """Of a mean, and of a share: by chance once in fifty million windows."""
    spread: float = 0.5
    """Least share of the references' variance that is left."""
    rank: float = 0.4
    """Least share of their effective rank."""
    modality: float = 0.1
    """Difference of a share of items that counts, however sure it is."""
    bare_spread: float = 0.02
    """Least variance of unit vectors, where there are no references."""
    silent: float = 0.5
    """Most inputs of a modality that say nothing, where it is not known how many lack it."""
    jump: float = 1e-3
    """Most that a vector may turn whose input has not changed, as 1 - cos: more than any rounding."""
    num_jumps: int = 3
    alignment: float = 0.9
    """Least share of the usual cosine of a user and the next item."""
    least_items: int = 200
    """Fewer say nothing."""
    usual: float = 1.25
    """Of what the catalogue itself gave in its own order, so much more is well."""


DEFAULT_LIMITS = Limits()


class Finding(NamedTuple):
    """One check, judged."""

    check: str
    value: float
    limit: float
    is_ill: bool
    detail: str
    """For a person."""


def judge(sums: Sums, references: References | None, limits: Limits = DEFAULT_LIMITS) -> list[Finding]:
    """What the vectors themselves say. Nothing about what they are too few for."""
    found = []
    if sums.num_known >= limits.least_items:
        if references is None:
            found += _bare(sums, limits)
        else:
            expected = _expected(sums, references)
            found += [_shift(sums, references, expected, limits), _components(sums, references, expected, limits)]
            found += _spread(sums, references, expected, limits)
    if references is not None and references.shares and sums.num_items >= limits.least_items:
        found.append(_modalities(sums, references, limits))
    return found


def _limit(references: References, check: str, limit: float, limits: Limits) -> float:
    """The limit, or what the catalogue itself has met, whichever is more."""
    return max(limit, limits.usual * references.usual.get(check, 0.0))


# ------------------------------------------------------------------ with references


class _Expected(NamedTuple):
    """What items of these patterns have by the references, and how much of it chance moves."""

    share_P: NDArray[np.float64]
    mean_D: NDArray[np.float64]
    noise_A: NDArray[np.float64]
    """Variance of the mean along each axis."""
    noise: float
    """Of the whole mean."""
    noise_square: float
    """Trace of the square of the mean's covariance beside the axes."""
    num_effective: float
    """Items that would leave as much to chance if the references were exact."""


def _expected(sums: Sums, references: References) -> _Expected:
    share_P = sums.counts_P / sums.num_known
    # Of the window's own items, and of those that the references were measured on.
    chance_P = share_P / sums.num_known + share_P**2 / references.items_P
    return _Expected(
        share_P,
        share_P @ references.means_PD,
        chance_P @ references.variances_PA,
        float(chance_P @ references.variance_P),
        float(chance_P**2 @ references.squares_P),
        1 / float(chance_P.sum()),
    )


def _shift(sums: Sums, references: References, expected: _Expected, limits: Limits) -> Finding:
    """Along the first 4 axes, the first 8, and so on, because a shift shows most where it is not among others, and
    beside all of them."""
    off_D = sums.mean_D - expected.mean_D
    along_A = references.axes_AD @ off_D
    squares_A = np.cumsum(along_A**2 / np.maximum(expected.noise_A, 1e-12))
    num_axes = len(along_A)
    tried = [*(count for count in NESTED_AXES if count < num_axes), num_axes]
    sure = max(deviations(float(squares_A[count - 1]), count) for count in tried)
    off = float(off_D @ off_D)
    noise = expected.noise - float(expected.noise_A.sum())
    if noise > 1e-3 * expected.noise and expected.noise_square > 0:  # or nothing lies beside the axes
        freedom = noise**2 / expected.noise_square
        sure = max(sure, deviations(freedom * (off - float(along_A @ along_A)) / noise, freedom))
    limit = _limit(references, "mean_shift", limits.deviations, limits)
    ratio = math.sqrt(off / expected.noise) if expected.noise > 0 else 0.0
    detail = f"their mean is {ratio:.1f} times as far from that of training as chance has it"
    return Finding("mean_shift", sure, limit, sure > limit, detail)


def _components(sums: Sums, references: References, expected: _Expected, limits: Limits) -> Finding:
    num_axes, num_bins = sums.bins_BQ.shape
    expected_BQ = (expected.share_P @ references.shares_PBQ.reshape(len(expected.share_P), -1)).reshape(num_axes, -1)
    found_BQ = (sums.bins_BQ + 0.5) / (sums.num_known + 0.5 * num_bins)
    psi_B = ((found_BQ - expected_BQ) * np.log(found_BQ / expected_BQ)).sum(1)
    axis = int(psi_B.argmax())
    # Of equal shares, n times PSI is chi-square with one degree of freedom fewer than there are bins.
    chance = chi_square(limits.deviations, num_bins - 1) / expected.num_effective
    limit = _limit(references, "components", chance, limits)
    detail = f"along principal axis {axis + 1} of {num_axes} they are spread otherwise than in training"
    return Finding("components", float(psi_B[axis]), limit, bool(psi_B[axis] > limit), detail)


def _spread(sums: Sums, references: References, expected: _Expected, limits: Limits) -> list[Finding]:
    mean_D = sums.mean_D
    # Of unit vectors the variance is what their mean lacks of length 1.
    usual = 1 - float(expected.mean_D @ expected.mean_D)
    square = float(mean_D @ mean_D)
    left = (1 - square) / usual if usual > 0 else 1.0
    detail = f"their mean has length {math.sqrt(square):.2f}, and {left:.0%} of the variance of training is left"
    least = min(limits.spread, references.usual.get("collapse", math.inf) / limits.usual)
    found = [Finding("collapse", left, least, left < least, detail)]
    around = 1 - 2 * float(mean_D @ references.mean_D) + float(references.mean_D @ references.mean_D)
    if sums.num_pairs and sums.pair_squares > 0:
        rank = around**2 * sums.num_pairs / sums.pair_squares
        least = min(limits.rank * references.effective_rank, references.usual.get("rank", math.inf) / limits.usual)
        detail = f"they vary along {rank:.1f} axes; in training it was {references.effective_rank:.1f}"
        found.append(Finding("rank", rank, least, rank < least, detail))
    return found


def _modalities(sums: Sums, references: References, limits: Limits) -> Finding:
    """The modality whose share of items is furthest from the references'."""
    worst, value, text = 0.0, 0.0, "every modality comes as often as in training"
    for name, usual in references.shares.items():
        share = sums.with_modality[name] / sums.num_items
        noise = math.sqrt(max(usual * (1 - usual), 1 / sums.num_items) / sums.num_items)
        off = abs(share - usual)
        if off > value:
            worst, value = off / noise, off
            text = f"{share:.0%} of them have {name}; in training it was {usual:.0%}"
    limit = _limit(references, "modalities", limits.modality, limits)
    return Finding("modalities", value, limit, value > limit and worst > limits.deviations, text)


# ------------------------------------------------------------------ without


def _bare(sums: Sums, limits: Limits) -> list[Finding]:
    spread = 1 - float(sums.mean_D @ sums.mean_D)
    found = [
        Finding(
            "collapse", spread, limits.bare_spread, spread < limits.bare_spread,
            f"their mean has length {math.sqrt(max(0.0, 1 - spread)):.3f}: they are nearly the same",
        )
    ]  # fmt: skip
    if sums.num_pairs:
        rank = sums.num_pairs / max(sums.pair_squares, 1e-12)
        found.append(Finding("rank", rank, 1.0, False, f"they vary along {rank:.1f} axes"))
    return found


# ------------------------------------------------------------------ what vectors alone do not say


def silent_inputs(
    num_silent: Mapping[str, int], num_items: int, references: References | None, limits: Limits = DEFAULT_LIMITS
) -> list[Finding]:
    """Of the inputs of some items, those of each modality that said nothing; the worst of them."""
    if num_items < limits.least_items:
        return []
    worst = Finding("silent_inputs", 0.0, limits.silent, False, "inputs say something")
    over = -math.inf
    for name, count in num_silent.items():
        share = count / num_items
        usual = None if references is None else references.shares.get(name)
        limit = limits.silent if usual is None else 1 - usual + limits.modality
        if share - limit > over:
            over = share - limit
            detail = f"{share:.0%} of the items come with {name} that says nothing (zeros, one value)"
            worst = Finding("silent_inputs", share, limit, share > limit, detail)
    return [worst]


def revision_jump(jumps: Sequence[float], limits: Limits = DEFAULT_LIMITS) -> list[Finding]:
    """1 - cos of vectors of the same input, now and before."""
    if len(jumps) < limits.num_jumps:
        return []
    value = sorted(jumps, reverse=True)[limits.num_jumps - 1]
    detail = f"{sum(jump > limits.jump for jump in jumps)} of {len(jumps)} vectors of unchanged input are others now"
    return [Finding("revision_jump", value, limits.jump, value > limits.jump, detail)]


class Cosines(NamedTuple):
    """Of users, before an event counts, with the item of it."""

    num: int
    total: float
    squares: float

    @property
    def mean(self) -> float:
        return self.total / self.num if self.num else 0.0

    @property
    def variance(self) -> float:
        return max(0.0, self.squares / self.num - self.mean**2) if self.num else 0.0


def alignment(recent: Cosines, usual: Cosines, limits: Limits = DEFAULT_LIMITS) -> list[Finding]:
    """Whether users still come to items that are near them."""
    if min(recent.num, usual.num) < limits.least_items:
        return []
    noise = math.sqrt(usual.variance * (1 / recent.num + 1 / usual.num))
    sure = (usual.mean - recent.mean) / max(noise, 1e-9)
    limit = limits.alignment * usual.mean
    is_ill = usual.mean > 0 and recent.mean < limit and sure > limits.deviations
    detail = f"the item that comes next has a cosine of {recent.mean:.3f} with its user; it used to be {usual.mean:.3f}"
    return [Finding("alignment", recent.mean, limit, is_ill, detail)]


# ------------------------------------------------------------------ one scale


def deviations(squares: float, freedom: float) -> float:
    """How many standard deviations a chi-square value lies over its mean, on a normal distribution's scale."""
    spread = 2 / (9 * freedom)
    return (math.cbrt(max(0.0, squares) / freedom) - (1 - spread)) / math.sqrt(spread)


def chi_square(deviations: float, freedom: float) -> float:
    """The other way round."""
    spread = 2 / (9 * freedom)
    return float(freedom * (1 - spread + deviations * math.sqrt(spread)) ** 3)
