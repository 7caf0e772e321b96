"""A space made like an older one, so that vectors of the two can stand beside each other.

Its shape is the older one's, it starts from that one's parameters, and in the end it is turned: an orthogonal map, made
by items that both know (Procrustes), is put into the last maps of the model. Within the new space all dot products stay
what they were; its coordinates come close to those of the old one.

A anchors: items with a vector in both   D dim = R learned + C content elements   K elements of a feature   H heads
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worker.align import AlignRuntime, Space
from worker.align.space import TRAINING_FOLDER
from worker.align.spec import Attention, Manifest, ModalitySpec, SpaceSpec
from worker.align.weights import Weights, content_id
from worker.data import Dataset, Features, Split
from worker.data.dataset import Interactions
from worker.data.trained_on import overlap, read_trained_on
from worker.errors import ConfigError
from worker.evaluate.spaces import embed_items
from worker.train.content import Block
from worker.train.finish import Finished
from worker.train.settings import RecipeName, TrainSettings
from worker.train.start import DAY_MS

LEAST_ANCHORS = 2
"""For each element of the learned block: fewer do not say how the spaces lie to each other."""
OWN_MAPS = ("head_", "alone_", "search_", "content_", "places_")
"""Parameters of one modality, before its name."""


@dataclass(frozen=True, slots=True)
class Like:
    """An older space, and the items as that one has them."""

    space: Space
    items: Dataset
    """With what it has learned of them, where that is at hand."""
    has_learned: bool
    """Whether it may have learned what is withheld from the new one."""

    def told(self) -> Iterator[str]:
        """How it was used."""
        start = "its judged fit started anew, as the old one had learned what it is asked" if self.has_learned else ""
        yield f"like space {self.space.space_id}, in whose coordinates its vectors are{start and f'; {start}'}"

    def require_anchors(self, features: Mapping[str, Features], ids: Sequence[str]) -> None:
        """Raise `ConfigError` where the items say too little of how the spaces lie to each other: before a training."""
        names = self._anchored_by(features)
        if not names:
            raise ConfigError("--like: it takes no features of the items given: give those it knows (--like-items)")
        mine, theirs = _common(ids, self.items.item_ids)
        both_A = np.zeros(len(mine), bool)
        for name in names:
            both_A |= features[name].present_I[mine] & self.items.features[name].present_I[theirs]
        least = LEAST_ANCHORS * self.space.spec.learned_dim
        if both_A.sum() < least:
            raise ConfigError(
                f"--like: {both_A.sum()} items are known to both spaces, and it takes {least}: give those that the "
                "older one knows (--like-items)"
            )

    def _anchored_by(self, features: Mapping[str, Features]) -> list[str]:
        """Modalities that both spaces are asked with: an item that lacks one lies elsewhere than with it."""
        return [
            name
            for name, each in self.space.spec.modalities.items()
            if name in features
            and (known := self.items.features.get(name)) is not None
            and each.dim == known.dim
            and each.encoder in (None, known.encoder)
        ]

    # ------------------------------------------------------------------ the shape

    @property
    def block(self) -> Block:
        """How parts of the content block are made that the older space cannot give: their sizes are its own."""
        return Block(0.5, 0.5)

    def settings(self, settings: TrainSettings) -> TrainSettings:
        """With everything that makes the shape as the older space has it."""
        spec, fusion = self.space.spec, self.space.spec.fusion
        changes: dict[str, Any] = {
            "recipes": (_recipe(spec),),
            "graph": spec.graph is not None,
            "score": "cosine" if spec.prior is None else "cosine+prior",
            "fusion": fusion.kind,
            "hidden": fusion.hidden,
            "width": spec.width,
            "layers": getattr(fusion, "layers", 1),
            "query": getattr(fusion, "query", None),
            "ordered": tuple(name for name, each in spec.modalities.items() if each.ordered),
            "learned_dim": spec.learned_dim,
            "content_weight": spec.content_weight,
            "content_dim": settings.content_dim if spec.content_dim else 0,
        }
        if spec.user is not None:
            changes |= {"user": spec.user.kind, "last": spec.user.last}
            if isinstance(spec.user, Attention):
                changes["user_heads"] = spec.user.heads
            else:
                changes |= {
                    "half_life_days": spec.user.half_life_ms / DAY_MS,
                    "half_life_events": spec.user.half_life_events,
                }
        return settings.model_copy(update=changes)

    def spec(self, spec: SpaceSpec) -> SpaceSpec:
        """The shape of the new space, with content blocks of the old one's sizes. Raises `ConfigError` where the items
        do not have what that takes."""
        old = self.space.spec
        modalities: dict[str, ModalitySpec] = {}
        for name, each in spec.modalities.items():
            known = old.modalities.get(name)
            modalities[name] = each.model_copy(
                update={
                    "content_dim": 0 if known is None else known.content_dim,
                    "max_vectors": each.max_vectors if known is None else max(each.max_vectors, known.max_vectors),
                }
            )
        lacking = [name for name, each in old.modalities.items() if each.content_dim and name not in modalities]
        if lacking:
            raise ConfigError(f"--like: its vectors have a part made of {lacking[0]}, which no item here brings")
        for name, each in modalities.items():
            if each.content_dim > each.dim:
                raise ConfigError(f"--like: {each.content_dim} elements of its vectors are made of {name}, whose "
                                  f"features have {each.dim} here")  # fmt: skip
        fields = {name: getattr(spec, name) for name in SpaceSpec.model_fields}
        dim = spec.learned_dim + sum(each.content_dim for each in modalities.values())
        return SpaceSpec.model_validate({**fields, "modalities": modalities, "dim": dim})

    # ------------------------------------------------------------------ the start

    def start(
        self,
        spec: SpaceSpec,
        weights: Weights,
        features: Mapping[str, Features],
        ids: Sequence[str],
        *,
        content_alone: bool = False,
    ) -> Weights:
        """The untrained parameters with those of the older space in their place, where they mean the same.
        `content_alone`: those of the content block, which are made without events."""
        started = dict(weights)
        turns = {name: self._turn(spec, name, features, ids) for name in spec.modalities}
        for name, tensor in self.space.weights.items():
            if name not in weights or tensor.shape != weights[name].shape:
                continue
            if content_alone and not name.startswith("content_"):
                continue
            modality = _modality_of(name, spec)
            turn_KK = None if modality is None else turns[modality]
            if modality is None or (turn_KK is not None and not turn_KK.numel()):
                started[name] = tensor.clone()
            elif turn_KK is not None and tensor.ndim == 2 and tensor.shape[1] == len(turn_KK):
                started[name] = (tensor.double() @ turn_KK).float()
            elif turn_KK is not None:
                started[name] = tensor.clone()
        return started

    def _turn(self, spec: SpaceSpec, name: str, features: Mapping[str, Features], ids: Sequence[str]) -> Tensor | None:
        """How features of a modality are turned into what the older space takes, `[K, K]`; nothing in it where they are
        the same, None where that is not known."""
        known, new = self.space.spec.modalities.get(name), features[name]
        if known is None or known.dim != new.dim:
            return None
        if known.encoder is None or known.encoder == new.encoder:
            return torch.zeros(0, 0)
        old = self.items.features.get(name)
        if old is None or old.encoder != known.encoder:
            return None
        mine, theirs = _common(ids, self.items.item_ids)
        both = new.present_I[mine] & old.present_I[theirs]
        if both.sum() < new.dim:
            return None
        new_AK, old_AK = new.mean_IK()[mine[both]], old.mean_IK()[theirs[both]]
        return procrustes(torch.from_numpy(new_AK), torch.from_numpy(old_AK))

    # ------------------------------------------------------------------ the end

    def turned(self, done: Finished, features: Mapping[str, Features], ids: Sequence[str]) -> Finished:
        """The finished space in the coordinates of the older one."""
        return replace(done, weights=fold(done.spec, done.weights, self.turns(done, features, ids)))

    def turns(self, done: Finished, features: Mapping[str, Features], ids: Sequence[str]) -> Mapping[str, Tensor]:
        """Orthogonal maps by part of the vector: `""` is the learned block, the others parts of the content block."""
        mine, theirs = _common(ids, self.items.item_ids)
        old_spec, names = self.space.spec, self._anchored_by(features)
        new_AD, new_there_A = _embedded(done.spec, done.weights, _chosen(ids, features, mine), names)
        old_AD, old_there_A = _embedded(old_spec, self.space.weights, _part(self.items, theirs), names)
        both_A = new_there_A & old_there_A
        num_learned = old_spec.learned_dim
        new_AD, old_AD = new_AD[both_A], old_AD[both_A]
        turns = {"": procrustes(_unit(new_AD[:, :num_learned]), _unit(old_AD[:, :num_learned]))}
        start = num_learned
        for name, each in done.spec.modalities.items():
            part, start = slice(start, start + each.content_dim), start + each.content_dim
            parameter = f"content_{name}.weight"
            if each.content_dim and not torch.equal(done.weights[parameter], self.space.weights[parameter]):
                turns[name] = procrustes(new_AD[:, part], old_AD[:, part])
        return turns


def like_space(path: Path, items: Dataset, dataset: Dataset, split: Split) -> Like:
    """The space in a directory as what another is made like. Raises `SpaceError` where it is none."""
    space = Space.load(path)
    found = read_trained_on(path / TRAINING_FOLDER)
    if found is None:
        return Like(space, items, has_learned=space.manifest.training_data is not None)
    events = split.events
    withheld_E = (split.cold_val_I | split.cold_test_I)[events.items_E]
    withheld_E[split.val_events] = withheld_E[split.test_events] = True
    seen = overlap(found, dataset, events.users_E[withheld_E], events.items_E[withheld_E])
    return Like(space, items, has_learned=seen.num_learned > 0)


def procrustes(from_AD: Tensor, to_AD: Tensor) -> Tensor:
    """The orthogonal map `[D, D]` that brings rows closest to those beside them: `to ≈ from @ map.T`. float64."""
    left_DD, _, right_DD = torch.linalg.svd(to_AD.double().T @ from_AD.double())
    turn_DD: Tensor = left_DD @ right_DD
    return turn_DD


def fold(spec: SpaceSpec, weights: Weights, turns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of the space whose vectors are turned, part by part, and its users' alike."""
    whole_DD: Tensor = torch.block_diag(  # type: ignore[no-untyped-call]
        turns.get("", torch.eye(spec.learned_dim, dtype=torch.float64)),
        *(
            turns.get(name, torch.eye(each.content_dim, dtype=torch.float64))
            for name, each in spec.modalities.items()
            if each.content_dim
        ),
    )
    folded = {name: tensor.double() for name, tensor in weights.items()}

    def out_of(layer: str, turn: Tensor) -> None:
        for parameter in ("weight", "bias"):
            folded[f"{layer}.{parameter}"] = turn @ folded[f"{layer}.{parameter}"]

    if (learned_RR := turns.get("")) is not None:
        for layer in ("output", *(f"alone_{name}" for name in spec.modalities)):
            out_of(layer, learned_RR)
    for name, each in spec.modalities.items():
        if each.content_dim and name in turns:
            out_of(f"content_{name}", turns[name])
        if spec.mapped:
            out_of(f"search_{name}", whole_DD)
    looks_at = [*(("graph.query", "graph.key") if spec.graph is not None else ())]
    if isinstance(spec.user, Attention):
        looks_at.append("user.pool.key")
        merge_DHD = folded["user.pool.merge.weight"].view(spec.dim, spec.user.heads, spec.dim)
        folded["user.pool.merge.weight"] = (
            torch.einsum("ij,jhk,lk->ihl", whole_DD, merge_DHD, whole_DD).reshape(spec.dim, -1)
        )  # fmt: skip
    for layer in looks_at:
        folded[f"{layer}.weight"] = folded[f"{layer}.weight"] @ whole_DD.T
    return {
        name: weights[name] if torch.equal(tensor, weights[name].double()) else tensor.float()
        for name, tensor in folded.items()
    }


def _recipe(spec: SpaceSpec) -> RecipeName:
    return "graph" if spec.graph is not None else "cosine" if spec.prior is None else "plain"


def _modality_of(parameter: str, spec: SpaceSpec) -> str | None:
    """Whose features a parameter is applied to; None: no modality's."""
    layer = parameter.partition(".")[0]
    if layer == "prior":
        return spec.prior
    prefix = next((each for each in OWN_MAPS if layer.startswith(each)), None)
    return None if prefix is None else layer.removeprefix(prefix)


def _common(mine: Sequence[str], theirs: Sequence[str]) -> tuple[Any, Any]:
    """Places of the ids that both have, in either."""
    place = {item_id: number for number, item_id in enumerate(theirs)}
    pairs = [(number, place[item_id]) for number, item_id in enumerate(mine) if item_id in place]
    found = np.array(pairs, np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _chosen(ids: Sequence[str], features: Mapping[str, Features], rows: Any) -> Dataset:
    none = np.zeros(0, np.int64)
    events = Interactions(none, none, none, none.astype(np.float32))
    chosen = {name: each.where(rows) for name, each in features.items()}
    return Dataset([ids[row] for row in rows.tolist()], [], chosen, events, [()] * len(rows), "")


def _part(items: Dataset, rows: Any) -> Dataset:
    return _chosen(items.item_ids, items.features, rows)


def _embedded(spec: SpaceSpec, weights: Weights, items: Dataset, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Vectors before graph fusion, and which there are."""
    fields = {name: getattr(spec, name) for name in SpaceSpec.model_fields}
    manifest = Manifest(**{**fields, "graph": None})
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("graph.")}
    runtime = AlignRuntime(Space(manifest, kept, content_id(manifest, kept)), device="cpu", dtype="float32")
    found = embed_items(runtime, items, names)
    return found.vectors_ID, found.usable_I


def _unit(rows_AD: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows_AD, dim=1)
