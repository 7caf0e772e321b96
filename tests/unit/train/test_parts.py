"""What a training is put together from, each part alone."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import cross_entropy

from tests.unit.data.builders import interactions
from tests.unit.train.worlds import DATA, SPLIT, settings
from worker.data import Features
from worker.errors import ConfigError
from worker.train.asked import capped, learned_from, most_per_user, num_capped
from worker.train.behavior import behavior_features
from worker.train.content import Block, principal_components
from worker.train.items import dropped
from worker.train.losses import agreement_loss, asked_as_new, consistency_loss, next_item_loss
from worker.train.neighbors import neighbors_of
from worker.train.run import learn_from_events
from worker.train.start import space_spec, starting_weights

BLOCK = Block(share=0.25, whitening=0.0)
NO_ONE_SEEN = torch.zeros(2, 3, dtype=torch.bool)


def features(vectors: Any, present: Any) -> Features:
    return Features("encoder", np.asarray(vectors, np.float32), np.concatenate([[0], np.cumsum(present)]))


# ---------------------------------------------------------------------- behaviour


def two_circles() -> Any:
    """Users 0 to 3 like items 0 to 2, users 4 to 7 items 3 to 5; item 6 has one event, item 7 none."""
    rows = [(user, item) for user in range(4) for item in range(3)]
    rows += [(user, item) for user in range(4, 8) for item in range(3, 6)]
    return interactions([(user, item, time, 1.0) for time, (user, item) in enumerate([*rows, (0, 6)])])


def test_items_liked_by_the_same_users_are_near_each_other_and_rare_ones_have_no_behavior() -> None:
    found = behavior_features(two_circles(), 8, 8, dim=2, min_events=3, shrink=3.0)
    assert found.present_I.tolist() == [True] * 6 + [False, False]
    factors_NF = found.vectors_NK[:, :2]
    unit_NF = factors_NF / np.linalg.norm(factors_NF, axis=1, keepdims=True)
    cosine_NN = unit_NF @ unit_NF.T
    assert cosine_NN[:3, :3].min() > 0.99
    assert cosine_NN[3:, 3:].min() > 0.99
    assert np.abs(cosine_NN[:3, 3:]).max() < 0.2


def test_the_last_element_of_behavior_tells_how_often_an_item_was_liked() -> None:
    rows = [(user, 0, user, 1.0) for user in range(9)] + [(user, 1, user, 1.0) for user in range(3)]
    found = behavior_features(interactions(sorted(rows, key=lambda row: row[2])), 9, 2, dim=1, min_events=1, shrink=3.0)
    assert found.vectors_NK[:, -1].tolist() == pytest.approx([1.0, -1.0])


def test_behavior_has_room_for_more_factors_than_there_are() -> None:
    found = behavior_features(two_circles(), 8, 8, dim=20, min_events=1, shrink=3.0)
    assert found.vectors_NK.shape == (7, 21)
    assert np.isfinite(found.vectors_NK).all()


def test_behavior_is_a_function_of_the_events_and_says_so_in_its_name() -> None:
    events = two_circles()
    first, again = (behavior_features(events, 8, 8, dim=2, min_events=3, shrink=3.0) for _ in range(2))
    assert np.array_equal(first.vectors_NK, again.vectors_NK)
    assert first.encoder == again.encoder
    fewer = behavior_features(events.where(np.arange(len(events) - 1)), 8, 8, dim=2, min_events=3, shrink=3.0)
    assert fewer.encoder != first.encoder


def test_a_single_event_says_how_often_an_item_was_liked_and_nothing_of_by_whom() -> None:
    found = behavior_features(two_circles(), 8, 8, dim=2, min_events=1, shrink=3.0)
    plain = behavior_features(two_circles(), 8, 8, dim=2, min_events=1, shrink=0.0)
    assert found.present_I.tolist() == [True] * 7 + [False]
    assert not found.vectors_NK[6, :2].any()
    assert found.vectors_NK[6, 2] < found.vectors_NK[:6, 2].min()
    others = found.vectors_NK[:6, :2] / plain.vectors_NK[:6, :2]
    assert others[1:] == pytest.approx(3 / (3 + 3.0))
    assert plain.vectors_NK[6, :2].any()
    assert found.encoder != plain.encoder


# ---------------------------------------------------------------------- who is asked


def test_no_user_is_asked_more_than_some_questions_whichever_are_drawn() -> None:
    users_Q = np.array([5] * 50 + [2] + [7] * 3)
    order = np.random.default_rng(0).permutation(len(users_Q))
    chosen = capped(users_Q, order, 4)
    assert np.bincount(users_Q[chosen]).tolist() == [0, 0, 1, 0, 0, 4, 0, 3]
    assert num_capped(users_Q, 4) == len(chosen) == 8
    place_Q = {number: place for place, number in enumerate(order.tolist())}
    assert [place_Q[number] for number in chosen.tolist()] == sorted(place_Q[number] for number in chosen.tolist())
    again = capped(users_Q, np.random.default_rng(1).permutation(len(users_Q)), 4)
    assert set(again.tolist()) != set(chosen.tolist())


def test_how_much_a_user_counts_follows_what_most_users_have() -> None:
    few_busy = np.concatenate([np.arange(100), np.full(1_000, 100)])
    assert most_per_user(few_busy, None) == 8
    alike = np.repeat(np.arange(20), 30)
    assert most_per_user(alike, None) == 240
    assert num_capped(alike, 240) == 600
    assert most_per_user(few_busy, 2) == 2


def test_what_a_user_begins_with_is_asked_where_there_is_a_prior_to_learn() -> None:
    usable_I = np.ones(len(SPLIT.warm_I), bool)
    all_Q, later_Q = (learned_from(SPLIT, usable_I, first_events=first) for first in (True, False))
    users = len(np.unique(SPLIT.events.users_E[SPLIT.train_E]))
    assert len(all_Q) == SPLIT.train_E.sum() == len(later_Q) + users
    assert (all_Q.lengths_Q == 0).sum() == users
    assert later_Q.lengths_Q.min() > 0


# ---------------------------------------------------------------------- neighbours


def test_a_user_who_likes_everything_makes_no_neighbors() -> None:
    """Three pairs of items, each liked together by three users, and four busy users who like one of each pair."""
    rows = [
        (user, item) for pair in range(3) for user in range(3 * pair, 3 * pair + 3) for item in (2 * pair, 2 * pair + 1)
    ]
    busy = [(user, item) for user in range(9, 13) for item in (0, 2, 4, *range(6, 40))]
    events = interactions([(user, item, time, 1.0) for time, (user, item) in enumerate([*rows, *busy])])
    content = {"text": features([[1, 0]] * 40, [1] * 40)}
    found = neighbors_of(events, 13, content, np.ones(40, bool), most=3)
    assert [found[item][0] for item in range(6)] == [1, 0, 3, 2, 5, 4]


def test_neighbors_are_liked_by_the_same_users_and_of_new_items_alike_in_content() -> None:
    content = {"text": features([[1, 0]] * 3 + [[0, 1]] * 3 + [[1, 1], [0.1, 1]], [1] * 8)}
    known_I = np.array([True] * 6 + [False, False])
    found = neighbors_of(two_circles(), 8, content, known_I, most=2)
    assert set(found[0]) == {1, 2}
    assert set(found[4]) == {3, 5}
    assert set(found[7]) <= {3, 4, 5}
    assert len(found[7]) == 2


def test_neighbors_are_those_of_all_pairs_of_items() -> None:
    random = np.random.default_rng(0)
    users, items = np.unique(np.stack([random.integers(60, size=900), random.integers(40, size=900)]), axis=1)
    events = interactions([(user, item, 0, 1.0) for user, item in zip(users.tolist(), items.tolist(), strict=True)])
    worth_U = 1 / np.bincount(users, minlength=60)
    likes_IU = np.zeros((40, 60))
    likes_IU[items, users] = np.sqrt(worth_U[users])
    own_I = (likes_IU**2).sum(1)
    cosine_II = likes_IU @ likes_IU.T / (np.sqrt(np.outer(own_I, own_I)) + 10 * worth_U[users].mean())
    np.fill_diagonal(cosine_II, 0)
    found = neighbors_of(events, 60, {}, np.ones(40, bool), most=5)
    for item, each in enumerate(found):
        assert cosine_II[item, list(each)] == pytest.approx(np.sort(cosine_II[item])[::-1][:5], rel=1e-5)


def test_content_looks_among_the_known_items_with_the_most_events_where_they_are_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.train.neighbors.MOST_AMONG", 3)
    content = {"text": features([[1, 0]] * 3 + [[0, 1]] * 3 + [[1, 1], [0.1, 1]], [1] * 8)}
    events = interactions([(user, item, item, 1.0) for item in range(6) for user in range(5 - item // 2)])
    found = neighbors_of(events, 5, content, np.array([True] * 6 + [False, False]), most=8)
    assert set(found[7]) == {0, 1, 2}


def test_no_item_is_its_own_neighbor_nor_one_without_anything_in_common() -> None:
    content = {"text": features([[1, 0]] * 6, [1] * 6 + [0, 0])}
    found = neighbors_of(two_circles(), 8, content, np.ones(8, bool), most=8)
    assert all(item not in each for item, each in enumerate(found))
    assert set(found[3]) == {4, 5}
    assert found[7] == ()


# ---------------------------------------------------------------------- the start


def test_principal_components_are_uncorrelated_those_of_most_variance_first() -> None:
    random = np.random.default_rng(0)
    mixed = random.standard_normal((500, 3)) @ random.standard_normal((3, 6)) + 5
    vectors_NK = torch.from_numpy(mixed.astype(np.float32))
    weight_CK, bias_C = principal_components(vectors_NK, 4)
    components_NC = vectors_NK @ weight_CK.T + bias_C
    covariance_CC = components_NC.T @ components_NC / 500
    variances_C = covariance_CC.diagonal()
    torch.testing.assert_close(covariance_CC, torch.diag(variances_C), rtol=0, atol=1e-3)
    assert variances_C[0] > variances_C[1] > variances_C[2] > 0.01
    assert variances_C.sum().item() == pytest.approx(np.var(mixed, axis=0).sum(), rel=1e-4)  # nothing is lost


def test_the_content_block_is_fitted_and_nothing_is_popular_yet() -> None:
    with_behavior = {**DATA.features, "behavior": features(np.ones((60, 9)), [1] * 60)}
    spec = space_spec(with_behavior, settings(), BLOCK)
    weights = starting_weights(spec, with_behavior, 0, BLOCK)
    assert spec.prior == "behavior"
    assert {name: part.content_dim for name, part in spec.modalities.items()} == {"behavior": 0, "image": 2, "text": 3}
    assert spec.dim == 8 + 5
    assert not weights["prior.weight"].any()
    assert torch.equal(
        weights["content_text.weight"], principal_components(torch.from_numpy(DATA.features["text"].vectors_NK), 3)[0]
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"score": "cosine"}, {"prior": None}),
        ({"user": "decayed_sum", "half_life_days": 2.0}, {"user.half_life_ms": 2 * 86_400_000}),
        ({"fusion": "gated", "hidden": 5}, {"fusion.kind": "gated", "fusion.hidden": 5}),
        ({"graph": True}, {"graph.width": 16}),
    ],
)
def test_settings_shape_the_space(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    spec = space_spec(DATA.features, settings(**changes), BLOCK)
    for path, value in expected.items():
        found = spec
        for name in path.split("."):
            found = getattr(found, name)
        assert found == value


def test_settings_that_make_no_space_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"fusion\.heads=4 does not divide width=18"):
        space_spec(DATA.features, settings(width=18, fusion="self_attention"), BLOCK)
    with pytest.raises(ValidationError, match="modality_dropout"):
        settings(modality_dropout=1.0)


# ---------------------------------------------------------------------- losses


def test_the_loss_of_the_whole_catalogue_is_a_softmax_without_what_was_seen() -> None:
    scores = torch.tensor([[0.5, 0.1, -0.2], [0.3, 0.2, 0.1]])
    seen = torch.tensor([[False, True, False], [False, False, False]])
    found = next_item_loss(2.0 * scores, seen, torch.tensor([0, 2]), None)
    first = -math.log(math.exp(1) / (math.exp(1) + math.exp(-0.4)))
    second = -math.log(math.exp(0.2) / (math.exp(0.6) + math.exp(0.4) + math.exp(0.2)))
    assert found.item() == pytest.approx((first + second) / 2, abs=1e-6)


def test_what_was_seen_does_not_spoil_gradients() -> None:
    scores = torch.zeros(2, 3, requires_grad=True)
    sharpness = torch.tensor(2.0, requires_grad=True)
    seen = torch.tensor([[False, True, False], [False, False, True]])
    next_item_loss(sharpness * scores, seen, torch.tensor([0, 1]), None).backward()
    assert scores.grad.isfinite().all()
    assert sharpness.grad.isfinite()


def test_a_sample_weighted_by_logq_estimates_the_softmax_of_all() -> None:
    """The expected sum over a sample, each term divided by how often it is in it, is the sum over all."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2_000, generator=generator)
    chance = torch.rand(2_000, generator=generator) * 0.9 + 0.05
    chance[0] = 1.0  # the answer is always there
    losses = []
    for _ in range(300):
        drawn = (torch.rand(2_000, generator=generator) < chance).nonzero()[:, 0]
        nothing = torch.zeros(1, len(drawn), dtype=torch.bool)
        losses.append(next_item_loss(logits[drawn][None], nothing, torch.tensor([0]), chance[drawn].log()))
    assert torch.stack(losses).mean().item() == pytest.approx(
        cross_entropy(logits[None], torch.tensor([0])).item(), abs=0.01
    )


def test_agreement_is_the_mean_of_both_directions() -> None:
    one, other = torch.eye(2), torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    logits = 3.0 * one @ other.T
    expected = (cross_entropy(logits, torch.arange(2)) + cross_entropy(logits.T, torch.arange(2))) / 2
    found = agreement_loss([(one, other), (other, one)], torch.tensor(3.0))
    assert found.item() == pytest.approx(expected.item())
    assert agreement_loss([], torch.tensor(3.0)).item() == 0


def test_consistency_is_how_far_apart_the_directions_are() -> None:
    partial, whole = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    assert consistency_loss(partial, whole).item() == pytest.approx((0 + 0.2) / 2)


def test_items_that_pass_for_new_are_asked_about_among_themselves() -> None:
    is_new = torch.tensor([False, True, True, False])
    asks_new, out = asked_as_new(is_new, torch.tensor([0, 2]))
    assert asks_new.tolist() == [[False], [True]]
    assert out.tolist() == [[False] * 4, [True, False, False, True]]


# ---------------------------------------------------------------------- leaving out


def test_modalities_are_left_out_with_their_chance_and_never_all_of_them() -> None:
    present = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(1)) < torch.tensor([1.0, 0.6, 0.3])
    chances = torch.tensor([0.3, 0.3, 0.8])
    kept = dropped(present, chances, torch.Generator().manual_seed(2))
    assert not (kept & ~present).any()
    assert kept.any(1).all()
    all_three = present.all(1)
    assert kept[all_three, 2].float().mean().item() == pytest.approx(0.2 + 0.3 * 0.3 * 0.8 * 0.1, abs=0.03)
    assert torch.equal(kept[present.sum(1) == 1], present[present.sum(1) == 1])


def test_an_item_without_modalities_stays_without() -> None:
    kept = dropped(torch.zeros(3, 2, dtype=torch.bool), torch.tensor([0.5, 0.5]), torch.Generator().manual_seed(0))
    assert not kept.any()


def test_only_training_events_make_behavior() -> None:
    learned = learn_from_events(DATA, SPLIT, settings(behavior_min_events=1))
    assert not (learned.features["behavior"].present_I & ~SPLIT.warm_I).any()
    without_answers = replace(
        SPLIT, events=SPLIT.events.where(SPLIT.train_E), train_E=np.ones(SPLIT.train_E.sum(), bool)
    )
    assert learn_from_events(DATA, without_answers, settings(behavior_min_events=1)).features["behavior"].encoder == (
        learned.features["behavior"].encoder
    )


def test_items_that_bring_behavior_of_their_own_are_refused() -> None:
    brought = replace(DATA, features={**DATA.features, "behavior": DATA.features["text"]})
    with pytest.raises(ConfigError, match="--behavior: the items have a modality 'behavior' already"):
        learn_from_events(brought, SPLIT, settings())
