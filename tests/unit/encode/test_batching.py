from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from worker.encode.batching import cost_batches

COSTS = st.lists(st.integers(1, 500), max_size=80)


def padded(costs: Any, batch: Any) -> Any:
    return len(batch) * max(costs[index] for index in batch)


@given(COSTS, st.integers(1, 2_000))
def test_every_piece_is_in_exactly_one_batch(costs: Any, batch_cost: Any) -> None:
    batches = cost_batches(costs, batch_cost)
    assert sorted(index for batch in batches for index in batch) == list(range(len(costs)))


@given(COSTS, st.integers(1, 2_000))
def test_a_batch_costs_what_it_may_or_is_one_piece(costs: Any, batch_cost: Any) -> None:
    for batch in cost_batches(costs, batch_cost):
        assert padded(costs, batch) <= batch_cost or len(batch) == 1


@given(COSTS, st.integers(1, 2_000))
def test_pieces_of_like_cost_are_together(costs: Any, batch_cost: Any) -> None:
    order = [costs[index] for batch in cost_batches(costs, batch_cost) for index in batch]
    assert order == sorted(costs, reverse=True)


def test_short_pieces_fit_in_greater_numbers() -> None:
    batches = cost_batches([100, 10] * 20, 200)
    assert [len(batch) for batch in batches] == [2] * 10 + [20]
