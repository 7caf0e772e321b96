"""What every kind of fusion promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from worker.align.fusion import FUSIONS, build_fusion
from worker.align.fusion.slots import consecutive
from worker.align.spec import FUSION_KINDS, SpaceSpec

WIDTH, BATCH = 16, 12
SLOTS = consecutive([(0, 2), (1, 1), (3, 2)])  # of the space's four modalities one, "c", is not in the batch
TOKENS = 5
VARIANTS: list[dict[str, Any]] = [
    {"kind": "self_attention", "layers": 1, "heads": 4, "hidden": 32},
    {"kind": "self_attention", "layers": 3, "heads": 4, "hidden": 32},
    {"kind": "cross_attention", "heads": 4, "hidden": 32},
    {"kind": "cross_attention", "heads": 4, "hidden": 32, "query": "a"},
    {"kind": "cross_attention", "heads": 4, "hidden": 32, "query": "b"},
    {"kind": "gated", "hidden": 32},
    {"kind": "concat_mlp", "hidden": 32},
]


@pytest.fixture(params=VARIANTS, ids=lambda variant: "-".join(map(str, variant.values())))
def fusion(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(1)
    modalities = {name: {"dim": 3} for name in "abcd"}
    spec = SpaceSpec.model_validate(
        {"dim": WIDTH, "width": WIDTH, "modalities": modalities, "fusion": request.param},
    )
    module = build_fusion(spec).requires_grad_(False)
    for parameter in module.parameters():
        if not parameter.any():
            parameter.normal_()
    return module


@pytest.fixture
def tokens() -> Tensor:
    return torch.randn(BATCH, TOKENS, WIDTH, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def mask() -> Tensor:
    """Every item has something, and some lack each of the modalities."""
    present = torch.rand(BATCH, TOKENS, generator=torch.Generator().manual_seed(3)) < 0.5
    present[:4, :2] = False
    present[4:8, 2] = False
    present[8:, 3:] = False
    present[:4, 3] = present[4:, 0] = True
    return present


def test_the_table_the_spec_and_these_tests_know_the_same_kinds() -> None:
    assert set(FUSIONS) == set(FUSION_KINDS) == {variant["kind"] for variant in VARIANTS}


@pytest.mark.parametrize("content", [0.0, 7.5, 1e30, float("nan"), float("inf"), float("-inf")])
def test_what_a_masked_token_holds_cannot_change_the_result(
    fusion: nn.Module, tokens: Tensor, mask: Tensor, content: float
) -> None:
    overwritten = tokens.masked_fill(~mask[:, :, None], content)
    assert torch.equal(fusion(overwritten, mask, SLOTS), fusion(tokens, mask, SLOTS))


def test_masking_equals_leaving_out(fusion: nn.Module, tokens: Tensor) -> None:
    mask = torch.zeros(BATCH, TOKENS, dtype=torch.bool)
    mask[:, [0, 3]] = True
    left = fusion(tokens[:, [0, 3]], None, consecutive([(0, 1), (3, 1)]))
    torch.testing.assert_close(fusion(tokens, mask, SLOTS), left, rtol=0, atol=1e-5)


def test_no_mask_equals_a_mask_of_everything(fusion: nn.Module, tokens: Tensor) -> None:
    everything = torch.ones(BATCH, TOKENS, dtype=torch.bool)
    torch.testing.assert_close(fusion(tokens, None, SLOTS), fusion(tokens, everything, SLOTS), rtol=0, atol=1e-6)


def test_the_order_of_the_tokens_of_a_modality_does_not_matter(fusion: nn.Module, tokens: Tensor, mask: Tensor) -> None:
    order = torch.tensor([1, 0, 2, 4, 3])
    swapped = fusion(tokens[:, order], mask[:, order], SLOTS)
    torch.testing.assert_close(swapped, fusion(tokens, mask, SLOTS), rtol=0, atol=1e-5)


def test_the_place_of_a_modality_in_the_batch_does_not_matter(fusion: nn.Module, tokens: Tensor, mask: Tensor) -> None:
    order = torch.tensor([3, 4, 2, 0, 1])
    moved = fusion(tokens[:, order], mask[:, order], consecutive([(3, 2), (1, 1), (0, 2)]))
    torch.testing.assert_close(moved, fusion(tokens, mask, SLOTS), rtol=0, atol=1e-5)


def test_an_item_does_not_see_the_others(fusion: nn.Module, tokens: Tensor, mask: Tensor) -> None:
    together = fusion(tokens, mask, SLOTS)
    alone = torch.cat([fusion(tokens[row : row + 1], mask[row : row + 1], SLOTS) for row in range(BATCH)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)


def test_a_row_without_tokens_is_finite(fusion: nn.Module, tokens: Tensor) -> None:
    assert fusion(tokens, torch.zeros(BATCH, TOKENS, dtype=torch.bool), SLOTS).isfinite().all()


def test_every_token_matters(fusion: nn.Module, tokens: Tensor) -> None:
    before = fusion(tokens, None, SLOTS)
    for token in range(TOKENS):
        changed = tokens.clone()
        changed[:, token] += torch.linspace(-1, 1, WIDTH)
        assert (fusion(changed, None, SLOTS) - before).abs().amax(1).min() > 1e-4


def test_gradients_reach_every_parameter(fusion: nn.Module, tokens: Tensor, mask: Tensor) -> None:
    fusion.requires_grad_(True)
    fusion(tokens, mask, SLOTS).square().sum().backward()
    idle = [name for name, parameter in fusion.named_parameters() if not parameter.grad.abs().sum() > 0]
    unused = ["asker"] if getattr(fusion, "_asking", None) is not None and mask[:, SLOTS[1].first].all() else []
    assert idle == unused
