"""The model of a space: a head per modality, fusion, an output map; beside it what is published with the vector.

    B items   T tokens of an item   N vectors of one modality   K elements of such a vector
    W width of a token   D dim of the space = R learned + C content

    token     h = W_m norm(x) + e_m              e_m, the bias, is the type embedding of the modality
    learned   r = unit(W_o norm(fusion({h})) + b_o)                  [B, R]
    content   c = [unit(P_m x + p_m) for each of M modalities] / √M  [B, C], frozen, of the raw features
    vector    v = unit([r ; √β c])                                   [B, D], with another β for new items
    alone     u_m = unit([A_m mean(h_m) ; 0])                        [B, D], of one modality, for search across them
              u_m = unit(mean(S_m unit(x) + s_m))                    the same in a space whose maps are of the features
    prior     a · x + a_0 of one modality, 0 without it              [B]

`norm` is layer normalisation without scale and shift, because the linear map that follows has both. Features are
normalised in float32 whatever the model computes in, and so is the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, layer_norm, normalize, pad

from worker.align.collated import Layout, ModalityLayout
from worker.align.fusion import build_fusion
from worker.align.fusion.slots import Slots, consecutive, masked_mean, presence, zero_masked
from worker.align.spec import ModalitySpec, SpaceSpec
from worker.align.users import UserModel

FEATURE_EPS = 1e-6  # variance of a unit vector of 4,096 elements is 2e-4: this moves it by less than 1 %


class Head(nn.Linear):
    """Vectors of one modality to tokens of the space."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__(dim, width)
        self.input_dropout = 0.0
        """Share of the normalised elements that training leaves out."""

    def forward(self, vectors_NK: Tensor) -> Tensor:
        norm_NK = layer_norm(vectors_NK, (self.in_features,), eps=FEATURE_EPS)
        if self.training and self.input_dropout:
            # Torch's own dropout takes four times as long for its draws on a CPU, and they were a tenth of a training.
            kept_NK = torch.rand_like(norm_NK) >= self.input_dropout
            norm_NK = norm_NK * kept_NK / (1 - self.input_dropout)
        return super().forward(norm_NK.to(self.weight.dtype))


class ModelOutputs(NamedTuple):
    """Outputs of the model for a batch, all float32.

    A length that is not finite or is 0 marks a row whose vector means nothing.
    """

    vectors_BD: Tensor
    lengths_B: Tensor
    priors_B: Tensor
    """0 where the space has no prior."""


class Tokens(NamedTuple):
    """A batch as the fusion sees it, and what the heads left aside for the other outputs."""

    tokens_BTW: Tensor
    mask_BT: Tensor | None
    """None: there is a token everywhere."""
    slots: tuple[Slots, ...]
    content_BC: Tensor | None
    """float32"""
    content_weights: Tensor | float
    """β, of all items or `[B, 1]`."""
    priors_B: Tensor
    vectors: dict[str, Tensor]
    """Of each modality, as they came."""
    positions_BT: Tensor | None


class AlignModel(nn.Module):
    """Collated features in, unit vectors out. `worker.align.weights` makes and fills its parameters."""

    def __init__(self, spec: SpaceSpec) -> None:
        super().__init__()
        self._spec = spec
        self._numbers = {name: number for number, name in enumerate(spec.modalities)}
        for name, modality in spec.modalities.items():
            self._add_modality(name, modality)
        self.fusion = build_fusion(spec)
        self.output = nn.Linear(spec.width, spec.learned_dim)
        if spec.prior is not None:
            self.prior = nn.Linear(spec.modalities[spec.prior].dim, 1)
        if spec.graph is not None:
            self.graph = NeighborAttention(spec.dim, spec.graph.width)
        self.user = None if spec.user is None else UserModel(spec.user, spec.dim)

    def _add_modality(self, name: str, modality: ModalitySpec) -> None:
        self.add_module(f"head_{name}", Head(modality.dim, self._spec.width))
        self.add_module(f"alone_{name}", nn.Linear(self._spec.width, self._spec.learned_dim))
        if self._spec.mapped:
            self.add_module(f"search_{name}", nn.Linear(modality.dim, self._spec.dim))
        if modality.content_dim:
            self.add_module(f"content_{name}", nn.Linear(modality.dim, modality.content_dim))
        if modality.ordered:
            positions = nn.Parameter(torch.zeros(modality.max_vectors, self._spec.width))
            self.register_parameter(f"places_{name}", positions)

    def forward(self, layout: Layout, tensors: Sequence[Tensor]) -> ModelOutputs:
        return self.embed(self.tokens(layout, tensors))

    def outputs(self, layout: Layout, tensors: Sequence[Tensor], *, modality_vectors: bool) -> tuple[Tensor, ...]:
        """`forward`, and with `modality_vectors` then vectors and lengths of each part of the layout alone."""
        collected = self.tokens(layout, tensors)
        fused = self.embed(collected)
        if not modality_vectors:
            return fused
        return (*fused, *(output for pair in self.alone(collected) for output in pair))

    def tokens(self, layout: Layout, tensors: Sequence[Tensor]) -> Tokens:
        """Heads, and the vectors of each modality to their slots."""
        remaining = iter(tensors)
        vectors = {part.name: self._vectors(part, remaining) for part in layout.parts if part.dtypes}
        positions_BT = None if layout.dense else next(remaining)
        tokens_BTW = _placed([self.head(name)(vectors_NK) for name, vectors_NK in vectors.items()], positions_BT)
        slots = consecutive((self._numbers[part.name], part.num_slots) for part in layout.parts)
        by_name = {part.name: each for part, each in zip(layout.parts, slots, strict=True)}
        mask_BT = None if positions_BT is None else positions_BT > 0
        return Tokens(
            self._with_places(tokens_BTW, by_name),
            mask_BT,
            slots,
            self._content(vectors, by_name, positions_BT),
            self._content_weights(by_name, mask_BT, tokens_BTW),
            self._priors(vectors, by_name, positions_BT, tokens_BTW),
            vectors,
            positions_BT,
        )

    def embed(self, tokens: Tokens) -> ModelOutputs:
        fused_BW = self.fusion(tokens.tokens_BTW, tokens.mask_BT, tokens.slots)
        raw_BR = self.output(layer_norm(fused_BW, (self._spec.width,))).float()
        lengths_B = torch.linalg.vector_norm(raw_BR, dim=1)
        learned_BR = raw_BR / lengths_B[:, None]
        if tokens.content_BC is None:
            return ModelOutputs(pad(learned_BR, (0, self._spec.content_dim)), lengths_B, tokens.priors_B)
        both_BD = torch.cat([learned_BR, tokens.content_BC * tokens.content_weights**0.5], 1)
        return ModelOutputs(normalize(both_BD, dim=1), lengths_B, tokens.priors_B)

    def alone(self, tokens: Tokens) -> list[tuple[Tensor, Tensor]]:
        """Unit vectors `[B, D]` of each part of the layout alone, and what their lengths were, both float32."""
        return self._mapped(tokens) if self._spec.mapped else self.tokens_alone(tokens)

    def _mapped(self, tokens: Tokens) -> list[tuple[Tensor, Tensor]]:
        names = list(self._numbers)
        results = []
        for part in tokens.slots:
            name = names[part.modality]
            if name not in tokens.vectors:  # there is room for it, and no item has it
                raw_BD = torch.zeros_like(tokens.tokens_BTW[:, :1, 0], dtype=torch.float32).expand(-1, self._spec.dim)
            else:
                rows_ND = self.search(name)(normalize(tokens.vectors[name], dim=1).to(self.output.weight.dtype))
                raw_BD = self._item_means(rows_ND, name, tokens.vectors, part, tokens.positions_BT).float()
            lengths_B = torch.linalg.vector_norm(raw_BD, dim=1)
            results.append((raw_BD / lengths_B[:, None].clamp(min=torch.finfo(torch.float32).tiny), lengths_B))
        return results

    def tokens_alone(self, tokens: Tokens) -> list[tuple[Tensor, Tensor]]:
        """The same by the heads, whose tokens the fused vectors are made of: what training brings together."""
        names = list(self._numbers)
        tokens_BTW = zero_masked(tokens.tokens_BTW, tokens.mask_BT)
        results = []
        for part in tokens.slots:
            mask_BT = None if tokens.mask_BT is None else part.of(tokens.mask_BT)
            project = getattr(self, f"alone_{names[part.modality]}")
            raw_BR = project(masked_mean(part.of(tokens_BTW), mask_BT)).float()
            lengths_B = torch.linalg.vector_norm(raw_BR, dim=1)
            # Of an item that lacks the modality 0 stays 0: NaN would spoil the gradients of all others.
            unit_BR = raw_BR / lengths_B[:, None].clamp(min=torch.finfo(torch.float32).tiny)
            results.append((pad(unit_BR, (0, self._spec.content_dim)), lengths_B))
        return results

    def head(self, name: str) -> Head:
        """The head of one modality."""
        head: Head = getattr(self, f"head_{name}")
        return head

    def search(self, name: str) -> nn.Linear:
        """The map of one modality to its vector alone, in a space that has such maps."""
        search: nn.Linear = getattr(self, f"search_{name}")
        return search

    def content(self, name: str) -> nn.Linear:
        """The frozen map of one modality that has a part in the content block."""
        content: nn.Linear = getattr(self, f"content_{name}")
        return content

    def _vectors(self, part: ModalityLayout, remaining: Iterator[Tensor]) -> Tensor:
        dim = self._spec.modalities[part.name].dim
        vectors = [_float_vectors(dim, dtype == "i1", remaining) for dtype in part.dtypes]
        return vectors[0] if len(vectors) == 1 else torch.cat(vectors)

    def _with_places(self, tokens_BTW: Tensor, slots: dict[str, Slots]) -> Tensor:
        """Tokens of ordered modalities with the embedding of their place added."""
        if not any(self._spec.modalities[name].ordered for name in slots):
            return tokens_BTW
        return torch.cat([self._placed_part(part.of(tokens_BTW), name) for name, part in slots.items()], 1)

    def _placed_part(self, tokens_BTW: Tensor, name: str) -> Tensor:
        if not self._spec.modalities[name].ordered:
            return tokens_BTW
        places_TW: Tensor = getattr(self, f"places_{name}")
        return tokens_BTW + places_TW[: tokens_BTW.shape[1]]

    def _content(
        self, vectors: dict[str, Tensor], slots: dict[str, Slots], positions_BT: Tensor | None
    ) -> Tensor | None:
        """`[B, C]`, float32, zeros for a modality that an item lacks. None if the batch has no such modality at all.

        It is not brought to length 1 as a whole: an item of which little is known would look as if all of it were, and
        measured, new items are then found less well.
        """
        dims = {name: part.content_dim for name, part in self._spec.modalities.items() if part.content_dim}
        columns: list[Tensor | int] = []
        for name, dim in dims.items():
            if name not in vectors:
                columns.append(dim)
                continue
            rows_NC = self.content(name)(vectors[name].to(self.output.weight.dtype))
            means_BC = self._item_means(rows_NC, name, vectors, slots[name], positions_BT)
            columns.append(normalize(means_BC.float(), dim=1) * len(dims) ** -0.5)
        known = next((column for column in columns if isinstance(column, Tensor)), None)
        if known is None:
            return None
        return torch.cat(
            [column if isinstance(column, Tensor) else known.new_zeros(known.shape[0], column) for column in columns], 1
        )

    def _content_weights(self, slots: dict[str, Slots], mask_BT: Tensor | None, tokens_BTW: Tensor) -> Tensor | float:
        new = self._spec.new
        if new is None:
            return self._spec.content_weight
        if new.lacking not in slots:
            return new.content_weight
        is_new_B1 = presence(slots[new.lacking], mask_BT, tokens_BTW).float() == 0
        known_B1 = torch.full_like(is_new_B1, self._spec.content_weight, dtype=torch.float32)
        return known_B1.masked_fill(is_new_B1, new.content_weight)

    def _priors(
        self, vectors: dict[str, Tensor], slots: dict[str, Slots], positions_BT: Tensor | None, tokens_BTW: Tensor
    ) -> Tensor:
        name = self._spec.prior
        if name is None or name not in vectors:
            return torch.zeros_like(tokens_BTW[:, 0, 0], dtype=torch.float32)
        rows_N1 = self.prior(vectors[name].to(self.output.weight.dtype))
        priors_B1 = self._item_means(rows_N1, name, vectors, slots[name], positions_BT)
        return priors_B1[:, 0].float()

    def _item_means(
        self,
        rows_NX: Tensor,
        name: str,
        vectors: dict[str, Tensor],
        slots: Slots,
        positions_BT: Tensor | None,
    ) -> Tensor:
        """`[B, X]`: the mean over an item's vectors of one modality of what a map made of each; 0 where it has none."""
        if positions_BT is None:
            return rows_NX
        before = 0
        for other, others_NK in vectors.items():
            if other == name:
                break
            before += others_NK.shape[0]
        positions_BS = slots.of(positions_BT)
        mask_BS = positions_BS > 0
        placed_BSX = embedding((positions_BS - before).clamp(min=0), pad(rows_NX, (0, 0, 1, 0)))
        return masked_mean(zero_masked(placed_BSX, mask_BS), mask_BS)


class NeighborAttention(nn.Module):
    """Attention of an item over the vectors of its neighbours.

        v' = unit(v + α Σ_j a_j v_j),   a = softmax_j(Q v · K v_j / √width)

    One hop: the v_j are vectors before this step, so an item's change cannot run on from neighbour to neighbour. Its
    values are not mapped: the sum of vectors of a space lies in the space.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, width)
        self.key = nn.Linear(dim, width, bias=False)
        self.strength = nn.Parameter(torch.zeros(()))
        """α."""

    def forward(self, vectors_BD: Tensor, neighbors_BND: Tensor, mask_BN: Tensor) -> Tensor:
        """`[B, D]`, unit length; of an item without neighbours the vector it came with."""
        vectors_BD, neighbors_BND = vectors_BD.float(), zero_masked(neighbors_BND.float(), mask_BN)
        query_BA, key_BNA = self.query(vectors_BD), self.key(neighbors_BND)
        scores_BN = torch.bmm(key_BNA, query_BA[:, :, None])[:, :, 0] * query_BA.shape[1] ** -0.5
        weights_BN = scores_BN.masked_fill(~mask_BN, torch.finfo(scores_BN.dtype).min).softmax(1)
        mixed_BD = torch.bmm(weights_BN[:, None, :], neighbors_BND)[:, 0]
        moved_BD = normalize(vectors_BD + self.strength * mixed_BD, dim=1)
        return torch.where(mask_BN.any(1, keepdim=True), moved_BD, vectors_BD)


def _placed(rows: list[Tensor], positions_BT: Tensor | None) -> Tensor:
    """Tokens `[B, T, W]` from the rows of each modality; zeros where there are none."""
    if positions_BT is None:
        return torch.stack(rows, 1)
    nothing_1W = torch.zeros_like(rows[0][:1])
    return embedding(positions_BT, torch.cat([nothing_1W, *rows]))


def _float_vectors(dim: int, scaled: bool, remaining: Iterator[Tensor]) -> Tensor:
    vectors_NK = next(remaining).float().view(-1, dim)
    return vectors_NK * next(remaining)[:, None] if scaled else vectors_NK
