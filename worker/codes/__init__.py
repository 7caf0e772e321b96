"""Semantic ids: what a vector is in codes, from coarse to fine, by codebooks that are learned once and then frozen.

`README.md` says how they are made, what they are worth, and why they never change by themselves.
"""

from worker.codes.books import CODES_FILE, Codebooks, disambiguator, read_codebooks, write_codebooks

__all__ = ["CODES_FILE", "Codebooks", "disambiguator", "read_codebooks", "write_codebooks"]
