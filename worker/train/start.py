"""What a training starts from: the spec of the space, its untrained parameters and the content block.

I items   N vectors of one modality   K elements of such a vector   C elements of its content block
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import ValidationError
from torch import Tensor

from worker.align.spec import SpaceSpec, explain
from worker.align.weights import initial_weights
from worker.data.dataset import Features
from worker.errors import ConfigError
from worker.train.content import Block
from worker.train.settings import TrainSettings

DAY_MS = 86_400_000


def space_spec(features: Mapping[str, Features], settings: TrainSettings, block: Block) -> SpaceSpec:
    """The space for a catalogue of these features. Raises `ConfigError` for settings that make none."""
    for name in settings.ordered:
        if name not in features:
            raise ConfigError(f"--ordered: {name!r} is not a modality; there is: {', '.join(features)}")
    modalities = {
        name: {
            "dim": each.dim,
            "encoder": each.encoder,
            "max_vectors": max(1, int(each.counts_I.max(initial=0))),
            "ordered": name in settings.ordered,
            "content_dim": 0 if name == settings.behavior else block.dim(each.dim, settings.content_dim),
        }
        for name, each in features.items()
    }
    user: dict[str, object] = {
        "kind": settings.user,
        "last": settings.last,
        "event_weights": settings.event_weights,
    }
    if settings.user == "attention":
        user |= {"hidden": settings.width, "heads": settings.user_heads}
    else:
        user["half_life_ms"] = settings.half_life_days * DAY_MS
        user["half_life_events"] = settings.half_life_events
    content_dim = sum(int(str(each["content_dim"])) for each in modalities.values())
    document = {
        "dim": settings.learned_dim + content_dim,
        "width": settings.width,
        "modalities": modalities,
        "fusion": _fusion(settings),
        "content_weight": settings.content_weight,
        "new": {"lacking": settings.behavior, "content_weight": settings.content_weight}
        if settings.behavior in features and content_dim
        else None,
        "mapped": True,
        "prior": settings.behavior if settings.score == "cosine+prior" and settings.behavior in features else None,
        "graph": {"width": settings.width} if settings.graph else None,
        "user": user,
    }
    try:
        return SpaceSpec.model_validate(document)
    except ValidationError as error:
        raise ConfigError(explain(error)) from error


def _fusion(settings: TrainSettings) -> dict[str, object]:
    """Raises `ConfigError` for what only another kind has."""
    for name, kind in (("layers", "self_attention"), ("query", "cross_attention")):
        is_given = getattr(settings, name) != TrainSettings.model_fields[name].default
        if is_given and settings.fusion != kind:
            raise ConfigError(f"--{name}: only --fusion {kind} has it; leave it out, or choose that")
    fusion: dict[str, object] = {"kind": settings.fusion, "hidden": settings.hidden}
    if settings.fusion == "self_attention":
        fusion["layers"] = settings.layers
    if settings.fusion == "cross_attention":
        fusion["query"] = settings.query
    return fusion


def starting_weights(spec: SpaceSpec, features: Mapping[str, Features], seed: int, block: Block) -> dict[str, Tensor]:
    """Untrained parameters, with the content block fitted to the features of all items: it uses no events."""
    weights = initial_weights(spec, seed)
    for name, modality in spec.modalities.items():
        if modality.content_dim:
            weight_CK, bias_C = block.components(features[name], modality.content_dim)
            weights[f"content_{name}.weight"], weights[f"content_{name}.bias"] = weight_CK, bias_C
    if spec.prior is not None:
        weights["prior.weight"] = torch.zeros_like(weights["prior.weight"])  # nothing is popular before it is liked
    return weights
