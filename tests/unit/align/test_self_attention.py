"""The shortcuts of the last layer give what the whole layer gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.unit.align.builders import spec
from worker.align.fusion.self_attention import Layer, SelfAttention
from worker.align.spec import SelfAttentionSpec

DIM, TOKENS, BATCH = 24, 6, 9


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def full_last_layer(fusion: SelfAttention, tokens_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
    """The same transformer with every row of every layer computed."""
    rows_BTD = torch.cat([fusion.summary.expand(len(tokens_BTD), 1, -1), tokens_BTD], 1)
    if mask_BT is not None:
        mask_BT = torch.cat([torch.ones(len(mask_BT), 1, dtype=torch.bool), mask_BT], 1)
    for layer in fusion.layers:
        rows_BTD = layer(rows_BTD, mask_BT)
    return rows_BTD[:, 0]


@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_only_the_summary_row_is_computed_and_it_is_the_same(layers: int, masked: bool) -> None:
    torch.manual_seed(0)
    of = SelfAttentionSpec(layers=layers, heads=4, hidden=48)
    fusion = SelfAttention(of, spec(dim=DIM)).double().requires_grad_(False)
    fusion.summary.normal_()
    tokens_BTD = random(BATCH, TOKENS, DIM).double()
    mask_BT = random(BATCH, TOKENS, seed=1) > 0 if masked else None
    expected = full_last_layer(fusion, tokens_BTD, mask_BT)
    torch.testing.assert_close(fusion(tokens_BTD, mask_BT, []), expected, rtol=0, atol=1e-12)


def test_a_bias_of_keys_and_values_would_add_nothing() -> None:
    """Why the layer has none: keys' cancels in the softmax, values' is the merge's bias."""
    torch.manual_seed(0)
    layer = Layer(DIM, 4, 48).double().requires_grad_(False)
    rows_BTD, bias_D = random(BATCH, TOKENS, DIM).double(), random(DIM, seed=1).double()
    plain = layer(rows_BTD, None)
    layer.key.bias = torch.nn.Parameter(bias_D, requires_grad=False)
    torch.testing.assert_close(layer(rows_BTD, None), plain, rtol=0, atol=1e-12)
    layer.value.bias = torch.nn.Parameter(bias_D, requires_grad=False)
    layer.merge.bias -= layer.merge.weight @ bias_D
    torch.testing.assert_close(layer(rows_BTD, None), plain, rtol=0, atol=1e-12)
