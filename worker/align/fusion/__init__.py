"""The ways to make one vector of an item's tokens, by the name that `space.json` gives as `fusion.kind`.

A fusion is a module that is called with `tokens_BTW`, `mask_BT` (True where there is a token; None: everywhere) and
the `Slots` of each modality in the batch, and returns `[B, W]`. What a masked token holds, NaN included, cannot change
the result, and neither can a modality of which no item has a token, in the batch or not. A row without any token gives
a finite vector, which the caller must not use. The order of the tokens of one modality does not matter beyond rounding.

A new kind is a module here, a line in `FUSIONS` and a spec in `worker.align.spec`; the tests of
`tests/unit/align/test_fusion.py` run over every kind in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from worker.align.fusion.concat_mlp import ConcatMlp
from worker.align.fusion.cross_attention import CrossAttention
from worker.align.fusion.gated import Gated
from worker.align.fusion.self_attention import SelfAttention
from worker.align.spec import SpaceSpec

FUSIONS: Mapping[str, Callable[[Any, SpaceSpec], nn.Module]] = {
    "self_attention": SelfAttention,
    "cross_attention": CrossAttention,
    "gated": Gated,
    "concat_mlp": ConcatMlp,
}


def build_fusion(spec: SpaceSpec) -> nn.Module:
    return FUSIONS[spec.fusion.kind](spec.fusion, spec)
