"""Whether published vectors are what they were when their space was trained: sums in constant memory, and a verdict.

Knows numpy, and neither torch nor Kafka. `README.md` says what is measured, and against what.
"""

from worker.vector_health.judge import CHECKS, Finding, Limits, judge
from worker.vector_health.references import REFERENCES_FILE, References, measured, read_references, write_references
from worker.vector_health.sums import Sums, sums_of, sums_together
from worker.vector_health.verdict import Decision, Verdict, decide
from worker.vector_health.watch import VectorWatch

__all__ = [
    "CHECKS",
    "REFERENCES_FILE",
    "Decision",
    "Finding",
    "Limits",
    "References",
    "Sums",
    "VectorWatch",
    "Verdict",
    "decide",
    "judge",
    "measured",
    "read_references",
    "sums_of",
    "sums_together",
    "write_references",
]
