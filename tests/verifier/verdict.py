"""What the verifier found."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

MAX_EXAMPLES = 10
COUNTS = (
    "inputs",
    "keys",
    "published",
    "superseded",
    "dead_lettered",
    "outputs",
    "tombstones",
    "dead_letters",
    "duplicates",
    "duplicates_differing",
    "duplicate_dead_letters",
    "expired",
    "workers",
)


class Rule(StrEnum):
    """The rules, as `tests.verifier.rules` states them."""

    ACCOUNTED = "accounted"
    FINAL = "final"
    ORDER = "order"
    PARTITION = "partition"
    VECTOR = "vector"
    DEAD_LETTER = "dead_letter"
    COUNTERS = "counters"


@dataclass(frozen=True)
class Verdict:
    """Whether the rules hold, and how much was looked at, so that nothing passes for want of data."""

    counts: Mapping[str, int]
    dead_letters_by_reason: Mapping[str, int]
    latency_ms: Mapping[str, int]
    """From an input's Kafka timestamp to that of its first output."""
    breaches: Mapping[Rule, int]
    examples: Mapping[Rule, Sequence[str]]
    """The first `MAX_EXAMPLES` breaches of each rule, in words."""
    undecided: Sequence[str] = ()
    """Why the logs are not enough to judge by."""

    @property
    def ok(self) -> bool:
        return not self.breaches and not self.undecided

    def explain(self) -> str:
        """What is wrong, one line each."""
        lines = [f"undecided: {reason}" for reason in self.undecided]
        for rule, count in self.breaches.items():
            lines += [f"{rule}: {text}" for text in self.examples[rule]]
            lines += [f"{rule}: and {count - MAX_EXAMPLES} more"] * (count > MAX_EXAMPLES)
        return "\n".join(lines) or "all rules hold"


@dataclass
class Findings:
    """A verdict in the making."""

    counts: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(COUNTS, 0)))
    reasons: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[int] = field(default_factory=list)
    _breaches: Counter[Rule] = field(default_factory=Counter)
    _examples: dict[Rule, list[str]] = field(default_factory=lambda: defaultdict(list))

    def report(self, rule: Rule, text: str) -> None:
        self._breaches[rule] += 1
        if len(self._examples[rule]) < MAX_EXAMPLES:
            self._examples[rule].append(text)

    def verdict(self, undecided: Sequence[str]) -> Verdict:
        return Verdict(
            counts=dict(self.counts),
            dead_letters_by_reason=dict(sorted(self.reasons.items())),
            latency_ms=_quantiles(self.latencies_ms),
            breaches={rule: self._breaches[rule] for rule in Rule if self._breaches[rule]},
            examples=dict(self._examples),
            undecided=tuple(undecided),
        )


def _quantiles(values: Sequence[int]) -> dict[str, int]:
    ordered = sorted(values)
    quantiles = (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    return {name: ordered[round(q * (len(ordered) - 1))] for name, q in quantiles} if ordered else {}
