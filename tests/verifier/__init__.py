"""Decides, from the topics alone, whether a run of the workers lost, reordered or invented anything."""

from tests.verifier.reading import verify_topics
from tests.verifier.rules import verify
from tests.verifier.values import Input, Kind, Letter, Output
from tests.verifier.verdict import Rule, Verdict

__all__ = ["Input", "Kind", "Letter", "Output", "Rule", "Verdict", "verify", "verify_topics"]
