"""What every kind of fusion promises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from worker.align.fusion import FUSIONS, build_fusion
from worker.align.spec import FUSION_KINDS, FusionSpec

DIM, TOKENS, BATCH = 16, 5, 12


@pytest.fixture(params=[(kind, layers) for kind in FUSIONS for layers in (1, 3)], ids=lambda p: f"{p[0]}-{p[1]}")
def fusion(request: pytest.FixtureRequest) -> nn.Module:
    kind, layers = request.param
    torch.manual_seed(1)
    module = build_fusion(FusionSpec(kind=kind, layers=layers, heads=4, hidden=32), DIM).requires_grad_(False)
    module.summary.normal_()
    return module


@pytest.fixture
def tokens() -> Tensor:
    return torch.randn(BATCH, TOKENS, DIM, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def mask() -> Tensor:
    present = torch.rand(BATCH, TOKENS, generator=torch.Generator().manual_seed(3)) < 0.5
    present[:, 0] = True
    return present


def test_the_table_and_the_spec_know_the_same_kinds() -> None:
    assert set(FUSIONS) == set(FUSION_KINDS)


@pytest.mark.parametrize("content", [0.0, 7.5, 1e30, float("nan"), float("inf"), float("-inf")])
def test_what_a_masked_token_holds_cannot_change_the_result(
    fusion: nn.Module, tokens: Tensor, mask: Tensor, content: float
) -> None:
    overwritten = tokens.masked_fill(~mask[:, :, None], content)
    assert torch.equal(fusion(overwritten, mask), fusion(tokens, mask))


def test_masking_equals_leaving_out(fusion: nn.Module, tokens: Tensor) -> None:
    mask = torch.zeros(BATCH, TOKENS, dtype=torch.bool)
    mask[:, [0, 3]] = True
    torch.testing.assert_close(fusion(tokens, mask), fusion(tokens[:, [0, 3]], None), rtol=0, atol=1e-5)


def test_no_mask_equals_a_mask_of_everything(fusion: nn.Module, tokens: Tensor) -> None:
    everything = torch.ones(BATCH, TOKENS, dtype=torch.bool)
    torch.testing.assert_close(fusion(tokens, None), fusion(tokens, everything), rtol=0, atol=1e-6)


def test_the_order_of_tokens_does_not_matter(fusion: nn.Module, tokens: Tensor, mask: Tensor) -> None:
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(fusion(tokens[:, order], mask[:, order]), fusion(tokens, mask), rtol=0, atol=1e-5)


def test_a_row_without_tokens_is_finite(fusion: nn.Module, tokens: Tensor) -> None:
    assert fusion(tokens, torch.zeros(BATCH, TOKENS, dtype=torch.bool)).isfinite().all()


def test_every_token_matters(fusion: nn.Module, tokens: Tensor) -> None:
    before = fusion(tokens, None)
    for token in range(TOKENS):
        changed = tokens.clone()
        changed[:, token] += torch.linspace(-1, 1, DIM)
        assert (fusion(changed, None) - before).abs().amax(1).min() > 1e-4


def test_gradients_reach_every_parameter(fusion: nn.Module, tokens: Tensor, mask: Tensor) -> None:
    fusion.requires_grad_(True)
    fusion(tokens, mask).square().sum().backward()
    idle = [name for name, parameter in fusion.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert idle == []
