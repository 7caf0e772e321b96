"""Checks of an item's features against a space, before anything is computed.

Runs once per record while the client's thread holds the interpreter, so it only compares: it copies nothing unless it
has something to leave out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeVar

from worker.align.features import FeatureLike
from worker.align.spec import SpaceSpec

F = TypeVar("F", bound=FeatureLike)

NAMES_SHOWN = 8


class Refusal(NamedTuple):
    """Why the space cannot make a vector of an item."""

    reason: Literal["wrong_encoder", "wrong_shape", "no_modality"]
    detail: str
    """Names the modality, what came and what the space expects."""


class _Expected(NamedTuple):
    encoder: str | None
    shape: tuple[int]
    max_vectors: int


class Contract:
    """Accepts or refuses the features of an item for one space."""

    def __init__(self, spec: SpaceSpec) -> None:
        self._prior = spec.prior
        self._expected = {
            name: _Expected(modality.encoder, (modality.dim,), modality.max_vectors)
            for name, modality in spec.modalities.items()
        }

    def judged(self, features: Mapping[str, F]) -> Mapping[str, F]:
        """Those of which it matters that their elements differ: all but the one that popularity is read from, whose
        numbers count as they are."""
        if self._prior is None or self._prior not in features:
            return features
        return {name: feature for name, feature in features.items() if name != self._prior}

    def check(self, features: Mapping[str, F]) -> Mapping[str, F] | Refusal:
        """The features that the space uses, or why it refuses the item.

        Modalities that the space does not know are left out: the result is then shorter than the argument. One
        feature that does not fit refuses the item, because a vector made of the rest would pass for the whole; so do
        more vectors of a modality than the space takes, because to choose among them is the producer's business.
        """
        known = 0
        for name, feature in features.items():
            expected = self._expected.get(name)
            if expected is None:
                continue
            encoder, shape, max_vectors = expected
            if encoder is not None and feature.encoder != encoder:
                return _wrong_encoder(name, feature, encoder)
            if feature.shape != shape and not _several(feature.shape, shape[0], max_vectors):
                return _wrong_shape(name, feature, expected)
            known += 1
        if known == len(features) and known:
            return features
        if not known:
            return self._no_modality(features)
        return {name: feature for name, feature in features.items() if name in self._expected}

    def _no_modality(self, features: Mapping[str, F]) -> Refusal:
        came = f"only {_names(features)}" if features else "none"
        return Refusal("no_modality", f"features: came {came}; the space takes {_names(self._expected)}")


def _several(shape: tuple[int, ...], dim: int, max_vectors: int) -> bool:
    return len(shape) == 2 and shape[1] == dim and 1 <= shape[0] <= max_vectors


def _wrong_encoder(name: str, feature: FeatureLike, encoder: str) -> Refusal:
    detail = f"features.{name}.encoder: came {feature.encoder!r}; the space expects {encoder!r}"
    return Refusal("wrong_encoder", detail)


def _wrong_shape(name: str, feature: FeatureLike, expected: _Expected) -> Refusal:
    dim, most = expected.shape[0], expected.max_vectors
    several = "" if most == 1 else f" or [1 to {most}, {dim}]"
    return Refusal(
        "wrong_shape",
        f"features.{name}.shape: came {list(feature.shape)}; the space expects [{dim}]{several}",
    )


def _names(named: Mapping[str, object]) -> str:
    shown = ", ".join(list(named)[:NAMES_SHOWN])
    return shown if len(named) <= NAMES_SHOWN else f"{shown} and {len(named) - NAMES_SHOWN} more"
