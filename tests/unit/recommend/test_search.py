from typing import Any

import pytest
import torch

from worker.recommend import search as module
from worker.recommend.search import Hit, search


@pytest.fixture
def vectors_ID() -> Any:
    return torch.nn.functional.normalize(torch.randn(500, 8, generator=torch.manual_seed(0)))


def items(hits: Any) -> Any:
    return [[hit.item for hit in each] for each in hits]


def test_it_is_the_whole_ranking_cut_off(vectors_ID: Any) -> None:
    queries_QD = torch.randn(3, 8, generator=torch.manual_seed(1))
    expected = (queries_QD @ vectors_ID.T).argsort(1, descending=True)[:, :7].tolist()
    assert items(search(queries_QD, vectors_ID, 7)) == expected


@pytest.mark.parametrize("at_once", [1, 3, 64, 500, 1_000])
def test_it_does_not_matter_how_items_and_queries_are_divided(
    vectors_ID: Any, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    vectors_ID[100:200] = vectors_ID[300:400]  # ties: the earlier item is first
    queries_QD = vectors_ID[[5, 150, 350, 499]]
    expected = search(queries_QD, vectors_ID, 20)
    monkeypatch.setattr(module, "ITEMS_AT_ONCE", at_once)
    monkeypatch.setattr(module, "QUERIES_AT_ONCE", min(at_once, 3))
    found = search(queries_QD, vectors_ID, 20)
    assert items(found) == items(expected)
    assert items(found)[1][:2] == [150, 350] == items(found)[2][:2]


def test_what_is_out_is_not_found_and_does_not_make_lists_longer(vectors_ID: Any) -> None:
    query_1D = vectors_ID[:1]
    among_I = torch.zeros(500, dtype=torch.bool)
    among_I[[0, 3, 7]] = True
    (hits,) = search(query_1D, vectors_ID, 10, among_I=among_I, without=[{0, 400}])
    assert {hit.item for hit in hits} == {3, 7}


def test_every_query_has_its_own_exceptions(vectors_ID: Any) -> None:
    first, second = items(search(vectors_ID[[4, 4]], vectors_ID, 500, without=[{4}, set()]))
    assert 4 not in first
    assert second == [4, *first]


def test_priors_are_added(vectors_ID: Any) -> None:
    priors_I = torch.zeros(500)
    priors_I[9] = 3.0
    (hits,) = search(vectors_ID[:1], vectors_ID, 2, priors_I=priors_I)
    assert [hit.item for hit in hits] == [9, 0]
    assert hits[0] == Hit(9, pytest.approx(3 + float(vectors_ID[0] @ vectors_ID[9])))
