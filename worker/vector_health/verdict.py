"""Whether a space is well, from what was found of it window by window: what a gate asks. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from worker.vector_health.judge import Finding


class Verdict(NamedTuple):
    """What was found when a block of items was full."""

    num_items: int
    """Of the block."""
    findings: tuple[Finding, ...]
    """By check, over the last window; of checks that could be judged."""

    @property
    def ill(self) -> tuple[Finding, ...]:
        return tuple(each for each in self.findings if each.is_ill)


class Decision(NamedTuple):
    """Whether to go on with a space."""

    is_healthy: bool
    num_items: int
    """It rests on."""
    reasons: tuple[str, ...]
    """Why not."""
    ill: tuple[Finding, ...] = ()
    """By check the newest finding among them that is ill."""


def decide(verdicts: Sequence[Verdict], last: int) -> Decision:
    """Whether the space is healthy over its last `last` items: so many have been judged, and no check was ill in any
    window that reaches into them. `verdicts`: oldest first."""
    num_items = 0
    ill: dict[str, Finding] = {}
    for verdict in reversed(verdicts):
        if num_items >= last:
            break
        num_items += verdict.num_items
        for finding in verdict.ill:
            ill.setdefault(finding.check, finding)
    told = [f"{each.check}: {each.detail}" for each in ill.values()]
    if num_items < last:
        told.append(f"only {num_items:,} of {last:,} items have been judged")
    return Decision(not told, num_items, tuple(told), tuple(ill.values()))
