"""Users as functions of their histories."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from worker.align.spec import Attention, DecayedSum, UserSpec
from worker.align.users import NO_ROW, Histories, UserModel, UserVectors

DIM, ROWS, DAY_MS = 6, 9, 86_400_000
WEIGHTS = {"like": 1.0, "dislike": -0.5}
DECAYED = DecayedSum(half_life_ms=DAY_MS, event_weights=WEIGHTS)
RANKED = DecayedSum(half_life_ms=DAY_MS, half_life_events=2.0, event_weights=WEIGHTS)
ATTENTION = Attention(heads=2, hidden=5, event_weights=WEIGHTS)
KINDS = [DECAYED, RANKED, ATTENTION]

Past = Sequence[tuple[int, int, float]]
"""Events of one user: row, time, weight."""


def model(spec: UserSpec) -> UserModel:
    torch.manual_seed(4)
    made = UserModel(spec, DIM).requires_grad_(False).eval()
    for parameter in made.parameters():
        parameter.normal_()
    return made


def table() -> Tensor:
    vectors = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(5))
    return vectors / vectors.norm(dim=1, keepdim=True)


def histories(users: Sequence[Past], length: int, garbage: float = 0.0) -> Histories:
    """Padded behind, and `garbage` where there is no event."""
    rows = torch.full((len(users), length), NO_ROW)
    times = torch.full((len(users), length), 7 if garbage == 0 else 1 << 60)
    weights = torch.full((len(users), length), garbage)
    for user, past in enumerate(users):
        for place, (row, time, weight) in enumerate(past):
            rows[user, place], times[user, place], weights[user, place] = row, time, weight
    return Histories(rows, times, weights)


def vectors(spec: UserSpec, users: Sequence[Past], length: int = 8, garbage: float = 0.0) -> UserVectors:
    result: UserVectors = model(spec)(table(), histories(users, length, garbage))
    return result


USERS: list[Past] = [
    [(0, 0, 1.0), (1, DAY_MS, 1.0), (2, 3 * DAY_MS, -0.5)],
    [(3, 5, 1.0)],
    [(4, 9, -0.5), (4, 9, 1.0), (5, 10, 1.0), (6, 11, 1.0)],
]


def test_the_decayed_sum_is_the_formula() -> None:
    found = vectors(DECAYED, USERS).vectors_UD[0].double().numpy()
    items = table().double().numpy()
    expected = items[0] / 8 + items[1] / 4 - 0.5 * items[2]
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), rtol=0, atol=1e-6)


def test_the_decay_by_rank_counts_newer_events_that_have_a_vector() -> None:
    past = [(0, 0, 1.0), (NO_ROW, 0, 1.0), (1, 0, 1.0), (2, 0, 1.0)]
    items = table().double().numpy()
    expected = items[0] / 2 + items[1] / math.sqrt(2) + items[2]
    found = vectors(RANKED, [past]).vectors_UD[0].double().numpy()
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), rtol=0, atol=1e-6)


def test_attention_is_the_formula() -> None:
    pool = model(ATTENTION).double().pool
    items = table().double()[[0, 1, 2]]
    pooled = []
    for head in range(2):
        key = slice(head * 5, head * 5 + 5)
        scores = torch.tanh(items @ pool.key.weight[key].T + pool.key.bias[key]) @ pool.query[head]
        fading = math.log1p(math.exp(pool.decay[head])) * torch.tensor([2.0, 1, 0])
        attention = (scores - fading + torch.tensor([1, 1, 0.5]).log()).softmax(0)
        pooled.append(attention * torch.tensor([1.0, 1, -1]) @ items)
    expected = pool.merge.weight @ torch.cat(pooled)
    found = vectors(ATTENTION, USERS).vectors_UD[0]
    torch.testing.assert_close(found.double(), expected / expected.norm(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("spec", KINDS, ids=lambda spec: f"{spec.kind}-{getattr(spec, 'half_life_events', '')}")
class TestEveryKind:
    def test_vectors_have_unit_length(self, spec: UserSpec) -> None:
        found = vectors(spec, USERS)
        assert found.usable_U.all()
        assert found.vectors_UD.dtype == torch.float32
        assert (found.vectors_UD.norm(dim=1) - 1).abs().max() < 1e-6

    @pytest.mark.parametrize("garbage", [1.0, math.nan, math.inf, -math.inf])
    def test_what_is_where_there_is_no_event_cannot_change_the_result(self, spec: UserSpec, garbage: float) -> None:
        assert torch.equal(vectors(spec, USERS).vectors_UD, vectors(spec, USERS, garbage=garbage).vectors_UD)

    def test_a_user_does_not_depend_on_the_batch(self, spec: UserSpec) -> None:
        together = vectors(spec, USERS).vectors_UD
        alone = torch.cat([vectors(spec, [past]).vectors_UD for past in USERS])
        torch.testing.assert_close(alone, together, rtol=0, atol=1e-6)

    def test_training_pools_in_another_order_to_the_same_vectors(self, spec: UserSpec) -> None:
        trained = table().requires_grad_()
        found = model(spec)(trained, histories(USERS, 8))
        torch.testing.assert_close(found.vectors_UD, vectors(spec, USERS).vectors_UD, rtol=0, atol=1e-6)
        found.vectors_UD.sum().backward()
        assert trained.grad.isfinite().all()

    def test_events_without_a_vector_count_for_nothing(self, spec: UserSpec) -> None:
        without = [[(NO_ROW, 1, 1.0), *past] for past in USERS]
        torch.testing.assert_close(
            vectors(spec, without).vectors_UD, vectors(spec, USERS).vectors_UD, rtol=0, atol=1e-6
        )

    def test_only_differences_of_time_matter(self, spec: UserSpec) -> None:
        later = [[(row, time + 1_700_000_000_000, weight) for row, time, weight in past] for past in USERS]
        torch.testing.assert_close(vectors(spec, later).vectors_UD, vectors(spec, USERS).vectors_UD, rtol=0, atol=1e-6)

    def test_a_user_without_any_vector_is_not_usable_and_finite(self, spec: UserSpec) -> None:
        found = vectors(spec, [[], [(NO_ROW, 1, 1.0)], USERS[0]])
        assert found.usable_U.tolist() == [False, False, True]
        assert found.vectors_UD.isfinite().all()

    def test_events_that_cancel_out_make_no_user(self, spec: UserSpec) -> None:
        if spec is RANKED or spec is ATTENTION:
            pytest.skip("events of one time differ by rank here")
        found = vectors(spec, [[(0, 5, 1.0), (0, 5, -1.0)]])
        assert found.usable_U.tolist() == [False]

    def test_an_old_history_fades_but_stays_usable(self, spec: UserSpec) -> None:
        past = [(0, 0, 1.0), (1, 20_000 * DAY_MS, 1.0)]
        assert vectors(spec, [past, [(0, 0, 1.0)]]).usable_U.all()

    def test_the_table_may_be_in_half_precision(self, spec: UserSpec) -> None:
        half = model(spec)(table().half(), histories(USERS, 8)).vectors_UD
        torch.testing.assert_close(half, vectors(spec, USERS).vectors_UD, rtol=0, atol=2e-3)


@pytest.mark.parametrize("spec", KINDS)
def test_a_row_that_no_event_is_about_is_nothing_to_anybody(spec: Attention | DecayedSum) -> None:
    """Places without an event are gathered from some row, too, whatever that holds."""
    users: list[Past] = [[(3, 5, 1.0)], [(4, 9, 1.0), (5, 10, 1.0)]]
    broken = table()
    broken[0] = float("nan")
    usual = model(spec)(table(), histories(users, 8))
    found = model(spec)(broken, histories(users, 8))
    assert torch.equal(found.vectors_UD, usual.vectors_UD)
    assert found.usable_U.all()
