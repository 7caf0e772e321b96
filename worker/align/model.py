"""The model of a space: a linear head per modality, fusion, an output map.

    B items   T tokens of an item   D dim of the space   N vectors of one modality   K elements of such a vector

    token    = W_m norm(x) + e_m                 e_m, the bias, is the type embedding of the modality
    z        = fusion({token})
    vector   = unit(W_o norm(z) + b_o)

`norm` is layer normalisation without scale and shift, because the linear map that follows has both. Features are
normalised in float32 whatever the model computes in, and so is the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, layer_norm

from worker.align.collated import Layout, Part
from worker.align.fusion import build_fusion
from worker.align.spec import SpaceSpec

FEATURE_EPS = 1e-6  # variance of a unit vector of 4,096 elements is 2e-4: this moves it by less than 1 %


class Head(nn.Linear):
    """Vectors of one modality to tokens of the space."""

    def forward(self, vectors_NK: Tensor) -> Tensor:
        norm_NK = layer_norm(vectors_NK, (self.in_features,), eps=FEATURE_EPS)
        return super().forward(norm_NK.to(self.weight.dtype))


class AlignModel(nn.Module):
    """Collated features in, unit vectors out. `worker.align.weights` makes and fills its parameters."""

    def __init__(self, spec: SpaceSpec) -> None:
        super().__init__()
        for name, modality in spec.modalities.items():
            self.add_module(_head(name), Head(modality.dim, spec.dim))
        self.fusion = build_fusion(spec.fusion, spec.dim)
        self.output = nn.Linear(spec.dim, spec.dim)

    def forward(self, layout: Layout, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Unit vectors `[B, D]` and what their lengths were `[B]`, both float32.

        A length that is not finite or is 0 marks a row whose vector means nothing.
        """
        return self.embed(*self.tokens(layout, tensors))

    def alone(self, layout: Layout, tensors: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """What `forward` returns, then the same for each part as if an item had nothing else."""
        tokens_BTD, mask_BT = self.tokens(layout, tensors)
        results, first = [self.embed(tokens_BTD, mask_BT)], 0
        for part in layout.parts:
            slots = slice(first, first + part.num_slots)
            results.append(self.embed(tokens_BTD[:, slots], None if mask_BT is None else mask_BT[:, slots]))
            first += part.num_slots
        return results

    def tokens(self, layout: Layout, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Tokens `[B, T, D]` and where there are any, `[B, T]`; None for everywhere."""
        remaining = iter(tensors)
        heads = [self._head_rows(part, remaining) for part in layout.parts if part.dtypes]
        if layout.dense:
            return torch.stack(heads, 1), None
        positions_BT = next(remaining)
        nothing_1D = torch.zeros_like(heads[0][:1])
        return embedding(positions_BT, torch.cat([nothing_1D, *heads])), positions_BT > 0

    def embed(self, tokens_BTD: Tensor, mask_BT: Tensor | None) -> tuple[Tensor, Tensor]:
        fused_BD = self.fusion(tokens_BTD, mask_BT)
        raw_BD = self.output(layer_norm(fused_BD, (self.output.in_features,))).float()
        length_B1 = torch.linalg.vector_norm(raw_BD, dim=1, keepdim=True)
        return raw_BD / length_B1, length_B1[:, 0]

    def _head_rows(self, part: Part, remaining: Iterator[Tensor]) -> Tensor:
        head = getattr(self, _head(part.name))
        vectors = [_float_vectors(head.in_features, dtype == "i1", remaining) for dtype in part.dtypes]
        tokens_ND: Tensor = head(vectors[0] if len(vectors) == 1 else torch.cat(vectors))
        return tokens_ND


def _float_vectors(dim: int, scaled: bool, remaining: Iterator[Tensor]) -> Tensor:
    vectors_NK = next(remaining).float().view(-1, dim)
    return vectors_NK * next(remaining)[:, None] if scaled else vectors_NK


def _head(modality: str) -> str:
    """Name of a modality's head among the parameters. The prefix keeps it from meeting a name of nn.Module's."""
    return f"head_{modality}"
