"""What is decided about a space when its parameters have been learned, by validation: nothing of it is learned again.

new items     how much of their vectors is content, of which alone is known what it is worth to them
one list      where the priors of known items lie beside new items, which have none: shifted together, they stay in the
              same order among themselves
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from worker.align.model import AlignModel
from worker.align.spec import SpaceSpec
from worker.align.weights import build_model
from worker.train.validation import Figures, Validation

FACTORS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Of the weight of content in new items, over that in known ones."""
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Of the priors of known items: where a new item may stand among them."""

Weights = Mapping[str, Tensor]
Choice = TypeVar("Choice")


@dataclass(frozen=True, slots=True)
class Finish:
    """What was decided."""

    new_factor: float | None = None
    """None: content weighs the same, or there is none."""
    prior_quantile: float | None = None
    """Of the priors of known items, the one that new items have. None: as it was learned."""

    def as_dict(self) -> dict[str, Any]:
        return {"new_content_factor": self.new_factor, "prior_of_new_items_at_quantile": self.prior_quantile}


@dataclass(frozen=True, slots=True)
class Finished:
    spec: SpaceSpec
    weights: dict[str, Tensor]


def chosen_finish(spec: SpaceSpec, weights: Weights, validation: Validation, device: str = "cpu") -> Finish:
    """What finds most, by validation."""
    finish = Finish()
    if spec.new is not None:
        finish = Finish(_best(FACTORS, lambda factor: _new(spec, weights, Finish(factor), validation, device)))
    if spec.prior is not None:
        quantile = _best(
            (None, *QUANTILES), lambda each: _shared(spec, weights, Finish(finish.new_factor, each), validation, device)
        )
        finish = Finish(finish.new_factor, quantile)
    return finish


def finished(
    spec: SpaceSpec, weights: Weights, finish: Finish, validation: Validation, device: str = "cpu"
) -> Finished:
    """The space with what was decided. Of another training of the same recipe it is decided by the same rule."""
    changed = dict(weights)
    if spec.new is not None and finish.new_factor is not None:
        weight = spec.content_weight * finish.new_factor
        spec = spec.model_copy(update={"new": spec.new.model_copy(update={"content_weight": weight})})
    if spec.prior is not None and finish.prior_quantile is not None:
        priors = validation.priors(build_model(spec, changed, device=device))
        if len(priors):
            changed["prior.bias"] = weights["prior.bias"] - torch.quantile(priors.cpu(), finish.prior_quantile)
    return Finished(spec, changed)


def _best(choices: tuple[Choice, ...], value: Callable[[Choice], float | None]) -> Choice | None:
    """The first of those with the greatest value; None where nothing can be said."""
    values = [(found, choice) for choice in choices if (found := value(choice)) is not None]
    return max(values, key=lambda each: each[0])[1] if values else None


def _new(spec: SpaceSpec, weights: Weights, finish: Finish, validation: Validation, device: str) -> float | None:
    figures = validation.figures(_model(spec, weights, finish, validation, device))
    found = [each for each in (figures.content_ndcg, figures.new_ndcg) if each is not None]
    return torch.tensor(found).log().mean().item() if found and min(found) > 0 else None


def _shared(spec: SpaceSpec, weights: Weights, finish: Finish, validation: Validation, device: str) -> float | None:
    return validation.one_list(validation.scores(_model(spec, weights, finish, validation, device)))


def _model(spec: SpaceSpec, weights: Weights, finish: Finish, validation: Validation, device: str) -> AlignModel:
    done = finished(spec, weights, finish, validation, device)
    return build_model(done.spec, done.weights, device=device)


def figures_of(done: Finished, validation: Validation, device: str = "cpu") -> Figures:
    return validation.figures(build_model(done.spec, done.weights, device=device))
