"""The ways to make one vector of an item's tokens, by the name that `space.json` gives as `fusion.kind`.

A fusion is a module that is called with `tokens_BTD` and `mask_BT` (True where there is a token; None: everywhere)
and returns `[B, D]`. What a masked token holds, NaN included, cannot change the result. A row without any token gives
a finite vector, which the caller must not use. The order of tokens does not matter beyond rounding.

A new kind is a module here, a line in `FUSIONS` and a name in `worker.align.spec.FusionKind`; the tests of
`tests/unit/align/test_fusion.py` run over every kind in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from worker.align.fusion.self_attention import SelfAttention
from worker.align.spec import FusionSpec

FUSIONS: Mapping[str, Callable[[FusionSpec, int], nn.Module]] = {"self_attention": SelfAttention}


def build_fusion(spec: FusionSpec, dim: int) -> nn.Module:
    return FUSIONS[spec.kind](spec, dim)
