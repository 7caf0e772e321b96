"""Maps of modalities into one space: what they find, of items that they were not fitted to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from worker.data import Features
from worker.train.maps import Kind, Map, fitted, refitted

NUM, DIM = 400, 24
WITHHELD = np.arange(NUM) % 4 == 0


def features(vectors_IK: Any, present_I: Any = None) -> Features:
    present_I = np.ones(len(vectors_IK), bool) if present_I is None else present_I
    starts = np.concatenate([[0], np.cumsum(present_I)]).astype(np.int64)
    return Features("encoder", np.asarray(vectors_IK, np.float32)[present_I], starts)


def seen_twice(noise: float = 0.4, dims: tuple[int, int] = (16, 20)) -> dict[str, Features]:
    """Two views of eight latent dimensions, each rotated its own way, with noise, off the origin."""
    random = np.random.default_rng(0)
    latent = random.standard_normal((NUM, 8))
    views = {}
    for name, dim in zip(("image", "text"), dims, strict=True):
        rotated = latent @ np.linalg.qr(random.standard_normal((dim, 8)))[0].T
        views[name] = features(rotated + noise * random.standard_normal((NUM, dim)) + 0.5)
    return views


def unit(views: dict[str, Features], maps: dict[str, Map] | Any, name: str) -> torch.Tensor:
    weight_DK, bias_D = maps[name]
    return normalize(normalize(torch.from_numpy(views[name].vectors_NK), dim=1) @ weight_DK.T + bias_D, dim=1)


def found(views: dict[str, Features], maps: Any, query: str, answer: str) -> float:
    some = torch.from_numpy(np.flatnonzero(WITHHELD))
    scores = unit(views, maps, query)[some] @ unit(views, maps, answer)[some].T
    return float((scores.topk(10, dim=1).indices == torch.arange(len(some))[:, None]).any(1).float().mean())


def test_items_that_nothing_was_fitted_to_are_found_by_their_other_modality() -> None:
    views = seen_twice()
    made = fitted(views, ["image", "text"], ~WITHHELD, WITHHELD, DIM)
    both = found(views, made.maps, "text", "image"), found(views, made.maps, "image", "text")
    assert min(both) > 0.8, both
    assert made.chance is not None
    assert made.chance < 0.1
    procrustes = refitted(Kind("correlated"), views, ["image", "text"], ~WITHHELD, DIM)
    assert np.mean(both) >= found(views, procrustes, "text", "image") - 0.02


def test_withheld_items_are_not_fitted_to() -> None:
    views = seen_twice()
    changed = {
        name: features(np.where(WITHHELD[:, None], -each.vectors_NK, each.vectors_NK)) for name, each in views.items()
    }
    kind = Kind("correlated", 1.0, 0.1, 1.0)
    one, other = (refitted(kind, each, ["image", "text"], ~WITHHELD, DIM) for each in (views, changed))
    for name in views:
        assert torch.equal(one[name][0], other[name][0])


def test_of_an_encoder_that_has_aligned_its_modalities_nothing_is_lost() -> None:
    """Its own space, but for the direction that tells its modalities apart."""
    random = np.random.default_rng(1)
    meaning = random.standard_normal((NUM, DIM))
    views = {name: features(meaning + 0.6 * random.standard_normal((NUM, DIM))) for name in ("image", "text")}
    few = np.zeros(NUM, bool)
    few[1:60:4] = True  # too few to learn an alignment from
    made = fitted(views, ["image", "text"], few, WITHHELD, DIM)
    as_it_was = {name: (torch.eye(DIM), torch.zeros(DIM)) for name in views}
    assert found(views, made.maps, "text", "image") >= found(views, as_it_was, "text", "image") - 0.02
    joint = refitted(Kind("joint"), views, ["image", "text"], few, DIM)
    cosines = unit(views, joint, "text") @ unit(views, joint, "image").T
    plain = unit(views, as_it_was, "text") @ unit(views, as_it_was, "image").T
    torch.testing.assert_close(cosines, plain, atol=1e-5, rtol=0)


def test_a_modality_made_of_events_is_mapped_to_what_content_says() -> None:
    views = seen_twice(noise=0.1)
    latent = views["text"].vectors_NK @ np.random.default_rng(3).standard_normal((20, 12)).astype(np.float32)
    with_behavior = {**views, "behavior": features(latent, ~WITHHELD)}
    made = fitted(with_behavior, ["image", "text"], ~WITHHELD, WITHHELD, DIM)
    assert set(made.maps) == {"behavior", "image", "text"}
    known = torch.from_numpy(np.flatnonzero(~WITHHELD))
    scores = unit(with_behavior, made.maps, "behavior") @ unit(views, made.maps, "text")[known].T
    hits = (scores.topk(10, dim=1).indices == torch.arange(len(known))[:, None]).any(1)
    assert hits.float().mean() > 0.5


@pytest.mark.parametrize("content", [["text"], []])
def test_a_modality_that_is_alone_has_a_map_too(content: list[str]) -> None:
    views = {"text": seen_twice()["text"]}
    made = fitted(views, content, ~WITHHELD, WITHHELD, DIM)
    assert (made.kind, made.found) == (None, None)
    before = normalize(torch.from_numpy(views["text"].vectors_NK - views["text"].vectors_NK.mean(0)), dim=1)
    after = unit(views, made.maps, "text")
    pairs = np.triu_indices(NUM, 1)
    same = np.corrcoef((before @ before.T).numpy()[pairs], (after @ after.T).numpy()[pairs])[0, 1]
    assert same > 0.9


def test_of_a_large_catalogue_no_more_is_looked_at_than_maps_are_fitted_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the maps are those that they were."""
    monkeypatch.setattr("worker.train.maps.MOST_ITEMS", 60)
    views, looked_at = seen_twice(), []
    whole = refitted(Kind("correlated"), views, ["image", "text"], ~WITHHELD, DIM)
    where = Features.where

    def counted(self: Features, items: Any) -> Features:
        looked_at.append(len(items))
        return where(self, items)

    monkeypatch.setattr(Features, "where", counted)
    some = refitted(Kind("correlated"), views, ["image", "text"], ~WITHHELD, DIM)
    assert max(looked_at) == 60
    assert all(torch.equal(whole[name][0], some[name][0]) for name in views)
