"""Adds vectors up as they are made, and judges them whenever a block is full. Constant memory."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from worker.vector_health.judge import (
    CHECKS,
    DEFAULT_LIMITS,
    Cosines,
    Finding,
    Limits,
    alignment,
    judge,
    revision_jump,
    silent_inputs,
)
from worker.vector_health.references import References
from worker.vector_health.sums import Summing, Sums, sums_together
from worker.vector_health.verdict import Decision, Verdict, decide

BLOCK = 334
WINDOW = 3
"""Blocks that are judged together."""
TOLD = 12
"""Blocks for which what was ill is told."""
KEPT = 300
"""Verdicts that a gate can look back on."""
MOST_JUMPS = 256
MOST_USUAL = 20_000
"""Cosines that what is usual is made of, older ones fading."""


class VectorWatch:
    """Of one space and one role. `add`, `turned` and `met` are called by one thread; what they find is read by any."""

    def __init__(
        self,
        references: References | None,
        dim: int,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.references = references
        self.dim = dim
        self._summing = Summing(references, dim)
        self._inputs: Callable[[], tuple[int, Mapping[str, int]]] | None = None
        self._limits = limits
        self._pieces: list[NDArray[np.float32]] = []
        self._patterns: list[tuple[str, ...]] = []
        self._blocks: deque[Sums] = deque(maxlen=WINDOW)
        self._read: deque[tuple[int, Mapping[str, int]]] = deque(maxlen=WINDOW + 1)
        self._jumps: deque[float] = deque(maxlen=MOST_JUMPS)
        self._usual = Cosines(0, 0.0, 0.0)
        self._recent = Cosines(0, 0.0, 0.0)
        self._met: tuple[Finding, ...] = ()
        self.verdicts: deque[Verdict] = deque(maxlen=KEPT)
        """Oldest first."""
        self.num_ill: Counter[str] = Counter(dict.fromkeys(CHECKS, 0))
        """Blocks so far at which a check was ill."""

    def count_inputs(self, inputs: Callable[[], tuple[int, Mapping[str, int]]]) -> None:
        """`inputs` says how many were read so far, and how many of them brought a modality that says nothing."""
        self._inputs = inputs
        self._read.append(inputs())

    def add(self, vectors_ID: NDArray[np.float32], patterns: Sequence[tuple[str, ...]]) -> None:
        """Take vectors in, as they are published, each with the modalities that took part."""
        self._pieces.append(vectors_ID)
        self._patterns.extend(patterns)
        if len(self._patterns) < BLOCK:
            return
        waiting_ID = np.concatenate(self._pieces)
        whole = len(waiting_ID) // BLOCK * BLOCK
        for start in range(0, whole, BLOCK):
            self._close(waiting_ID[start : start + BLOCK], self._patterns[start : start + BLOCK])
        self._pieces = [waiting_ID[whole:].copy()]
        del self._patterns[:whole]

    def turned(self, jump: float) -> None:
        """A vector was made of the same input as before: 1 - cos of the two."""
        self._jumps.append(jump)

    def met(self, cosines: NDArray[np.float32]) -> None:
        """Users came to items: the cosines of the two before that counted."""
        values = cosines.astype(np.float64)
        before = self._recent
        recent = Cosines(
            before.num + len(values), before.total + float(values.sum()), before.squares + float(values @ values)
        )
        if recent.num < BLOCK * WINDOW:
            self._recent = recent
            return
        found = alignment(recent, self._usual, self._limits)
        self._met = tuple(found)
        if not any(each.is_ill for each in found):  # or what is ill would become what is usual
            kept = min(1.0, MOST_USUAL / max(1, self._usual.num))
            self._usual = Cosines(
                int(self._usual.num * kept) + recent.num,
                self._usual.total * kept + recent.total,
                self._usual.squares * kept + recent.squares,
            )
        self._recent = Cosines(0, 0.0, 0.0)

    def _close(self, vectors_ID: NDArray[np.float32], patterns: Sequence[tuple[str, ...]]) -> None:
        block = self._summing(vectors_ID, patterns)
        self._blocks.append(block)
        window = judge(sums_together(list(self._blocks)), self.references, self._limits)
        found = {finding.check: finding for finding in window}
        for finding in (*self._silent(), *revision_jump(self._jumps, self._limits), *self._met):
            found[finding.check] = finding
        verdict = Verdict(block.num_items, tuple(found[check] for check in CHECKS if check in found))
        for finding in verdict.ill:
            self.num_ill[finding.check] += 1
        self.verdicts.append(verdict)

    def _silent(self) -> list[Finding]:
        if self._inputs is None:
            return []
        now = self._inputs()
        before = self._read[0]
        self._read.append(now)
        grown = {name: count - before[1].get(name, 0) for name, count in now[1].items()}
        return silent_inputs(grown, now[0] - before[0], self.references, self._limits)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """By check the newest one, or the newest that is ill, if one of the last blocks was."""
        recent = list(self.verdicts)[-TOLD:]
        found: dict[str, Finding] = {}
        for verdict in recent:
            for finding in verdict.findings:
                if finding.is_ill or finding.check not in found or not found[finding.check].is_ill:
                    found[finding.check] = finding
        return tuple(found[check] for check in CHECKS if check in found)

    def decide(self, last: int) -> Decision:
        """Whether the space is healthy over its last `last` items."""
        return decide(list(self.verdicts), last)
