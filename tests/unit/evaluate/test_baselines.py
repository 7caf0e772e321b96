"""Each baseline against a case worked out by hand, and the promises that all of them make."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.evaluate.histories import events, split_of
from tests.unit.evaluate.planted import dataset_of, planted
from worker.data import Features
from worker.errors import ConfigError
from worker.evaluate import BASELINE_NAMES
from worker.evaluate.baselines import (
    BestModality,
    BprMf,
    ContentMean,
    Ease,
    ItemKnn,
    Known,
    LightGcn,
    Popularity,
    SasRec,
    Vbpr,
    baselines,
    chosen,
    factors,
    item_to_item,
    known_before,
    validation,
)
from worker.evaluate.baselines.content import TREATMENTS, side_by_side
from worker.evaluate.evaluation import judge_baseline
from worker.evaluate.questions import ask, cold_questions, warm_questions
from worker.evaluate.run import MOST_BASELINE_SECONDS, baseline_seconds

# Items 0 and 1 share two users, items 1 and 2 one; item 3 has none.
EVENTS = events((0, 0, 1), (0, 1, 2), (1, 0, 1), (1, 1, 2), (2, 1, 1), (2, 2, 2))
WARM_I = np.array([True, True, True, False])
TEXT = Features("t", np.array([[3, 0], [0, 1], [1, 1]], np.float32), np.array([0, 1, 1, 2, 3]))  # item 1 has none
KNOWN = Known(EVENTS, WARM_I, 3, {"text": TEXT})


def ask_user(user: Any, score: Any, candidates: Any = (0, 1, 2, 3)) -> Any:
    """Scores of the candidates for the whole history of one user."""
    of = split_of(4, EVENTS, set(), set())
    questions = warm_questions(of, "test")
    begin, end = np.searchsorted(EVENTS.users_E[np.argsort(EVENTS.users_E, kind="stable")], [user, user + 1])
    questions = type(questions)(
        line=EVENTS.where(np.argsort(EVENTS.users_E, kind="stable")),
        begin_Q=np.array([begin]),
        end_Q=np.array([end]),
        seen_end_Q=np.array([begin]),
        users_Q=np.array([user]),
        candidates_C=np.array(candidates),
        relevant_P=np.array([0]),
        starts=np.array([0, 1]),
    )
    return score(questions)[0].tolist()


def test_popularity_counts_events() -> None:
    assert ask_user(0, Popularity().fit(KNOWN, 0, {}), (0, 1, 3)) == [2, 3, 0]


def test_item_knn_by_hand() -> None:
    score = ItemKnn().fit(KNOWN, 0, {"shrink": 1.0, "neighbors": math.inf})
    zero_one, one_two = 2 / (math.sqrt(2 * 3) + 1), 1 / (math.sqrt(3 * 1) + 1)
    assert ask_user(2, score) == pytest.approx([zero_one, one_two, one_two, -math.inf])


def test_item_knn_keeps_the_nearest_neighbours_of_a_candidate() -> None:
    score = ItemKnn().fit(KNOWN, 0, {"shrink": 0.0, "neighbors": 1})
    zero_one, one_two = 2 / math.sqrt(6), 1 / math.sqrt(3)
    assert ask_user(2, score, (0, 1, 2)) == pytest.approx([zero_one, 0.0, one_two])  # 1 is nearer to 0 than to 2


def test_ease_by_hand() -> None:
    both_and_one = events((0, 0, 1), (0, 1, 2), (1, 0, 1))  # co-occurrence [[2, 1], [1, 1]]
    known = Known(both_and_one, np.ones(2, bool), 2, {})
    together_AA = item_to_item.co_occurrences(known, np.arange(2))
    assert together_AA.tolist() == [[2, 1], [1, 1]]
    # (G + 1)^-1 = [[2, -1], [-1, 3]] / 5; B[i, j] = -P[i, j] / P[j, j]
    score = Ease().fit(known, 0, {"penalty": 1.0})
    of = split_of(2, both_and_one, set(), set())
    assert score(one_item_history(of, 0))[0].tolist() == pytest.approx([0.0, 1 / 3])
    assert score(one_item_history(of, 1))[0].tolist() == pytest.approx([1 / 2, 0.0])


def one_item_history(of: Any, item: Any, num_items: int = 2) -> Any:
    questions = warm_questions(of, "test")
    at = int(np.flatnonzero(questions.line.items_E == item)[0])
    where = np.array([at])
    return type(questions)(
        questions.line, where, where + 1, where, np.array([0]), np.arange(num_items), np.array([0]), np.array([0, 1])
    )


def test_co_occurrences_do_not_depend_on_how_many_users_are_counted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weights_U = torch.tensor([1.0, 0.5, 0.25])
    whole = [item_to_item.co_occurrences(KNOWN, np.arange(3), each) for each in (None, weights_U)]
    monkeypatch.setattr(item_to_item, "USERS_AT_ONCE", 2)
    for expected, each in zip(whole, (None, weights_U), strict=True):
        assert torch.equal(item_to_item.co_occurrences(KNOWN, np.arange(3), each), expected)
    assert whole[1][0].tolist() == [1.5, 1.5, 0.0]


def test_busy_users_count_for_one_in_all_where_activity_is_taken_out() -> None:
    """Item 0 shares two users of one other item with item 1, and a user of everything with item 2 … 9."""
    rows = [(0, 0, 1), (0, 1, 2), (1, 0, 1), (1, 1, 2), *((2, item, item + 1) for item in range(10))]
    known = Known(events(*rows, *((3, item, item) for item in range(10))), np.ones(10, bool), 4, {})
    similar = {}
    for activity in (0.0, 1.0):
        score = ItemKnn().fit(known, 0, {"shrink": 100.0, "neighbors": np.inf, "activity": activity})
        of = split_of(10, known.events, set(), set())
        similar[activity] = score(one_item_history(of, 0, num_items=10))[0].tolist()
    assert similar[0.0][1] / similar[0.0][2] < 2.1
    assert similar[1.0][1] / similar[1.0][2] > 5


def test_too_many_items_for_all_pairs_are_compared_where_they_have_users_in_common(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setting = {"shrink": 1.0, "neighbors": 3.0, "activity": 1.0}
    questions = warm_questions(SPLIT, "test")
    known = known_before(DATA, SPLIT, "test")
    dense = ItemKnn().fit(known, 0, setting)(questions)
    monkeypatch.setattr(item_to_item, "MAX_ITEMS", 2)
    sparse = ItemKnn().fit(known, 0, setting)(questions)
    assert "200 neighbours" in ItemKnn().limit(known)
    # Of neighbours that are equally near, the one keeps all and the other as many as there may be.
    assert (sparse <= dense + 1e-5).all()
    assert (sparse[sparse > -torch.inf] > 0).float().mean() > 0.9 * (dense[dense > -torch.inf] > 0).float().mean()


def test_of_too_many_items_ease_takes_those_with_most_events_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Ease().limit(KNOWN) == ""
    monkeypatch.setattr(item_to_item, "MAX_EASE_ITEMS", 2)
    scores = ask_user(2, Ease().fit(KNOWN, 0, {"penalty": 1.0}))
    assert [score > -math.inf for score in scores] == [True, True, False, False]
    assert Ease().limit(KNOWN) == "of 3 items with events, the 2 that have most took part"
    assert judge_baseline(Ease([1.0]), DATA, SPLIT, [0], {}).cut.startswith("of ")


def test_content_mean_by_hand() -> None:
    score = ContentMean(["text"]).fit(KNOWN, 0, {})
    # User 2 has items 1, without text, and 2, which points to (0, 1).
    assert ask_user(2, score) == pytest.approx([0.0, 0.0, 1.0, math.sqrt(0.5)])


def test_several_vectors_of_a_modality_count_as_their_mean() -> None:
    several = Features("t", np.array([[1, 0], [0, 1], [1, 0]], np.float32), np.array([0, 2, 3, 3, 3]))
    score = ContentMean(["text"]).fit(Known(EVENTS, WARM_I, 3, {"text": several}), 0, {})
    assert ask_user(2, score, (0, 1)) == pytest.approx([math.sqrt(0.5), 1.0])


def test_modalities_side_by_side_weigh_the_same() -> None:
    image = Features("i", np.array([[0, 100], [5, 0]], np.float32), np.array([0, 1, 1, 2, 2]))
    known = Known(EVENTS, WARM_I, 3, {"text": TEXT, "image": image})
    score = ContentMean(["text", "image"]).fit(known, 0, {})
    assert ask_user(2, score, (0, 2)) == pytest.approx([0.0, 2.0])


def test_content_without_its_mean_and_half_whitened_by_hand() -> None:
    """What all have in common says nothing; a strong element counts for less than it would."""
    random = np.random.default_rng(0)
    vectors_IK = np.stack([4.0 + random.standard_normal(400), 0.5 * random.standard_normal(400)], 1)
    vectors_IK = np.column_stack([vectors_IK, 0.01 * random.standard_normal((400, 2))])
    features = {"text": Features("t", vectors_IK.astype(np.float32), np.arange(401))}
    plain, centred, half = (side_by_side(features, ["text"], each) for each in TREATMENTS)
    assert plain[:, 0].min() > 0.5
    assert abs(centred[:, 0].mean()) < 0.1
    assert half.shape == (400, 2)  # of four elements
    raw_IF = half / np.abs(half).max(1, keepdims=True)
    assert np.abs(raw_IF[:, 0]).mean() / np.abs(raw_IF[:, 1]).mean() == pytest.approx(np.sqrt(2), abs=0.35)


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_an_item_without_content_has_none_whatever_is_done_to_the_others(treatment: str) -> None:
    content_IK = side_by_side({"text": TEXT}, ["text"], treatment)
    assert not content_IK[1].any()
    assert np.isfinite(content_IK).all()


# ---------------------------------------------------------------------- promises of all

DATA, SPLIT = planted()


@pytest.mark.parametrize(
    "method", [Ease(), ItemKnn(), BprMf(), Vbpr(["image", "text"]), LightGcn(), SasRec(), ContentMean(["text"])]
)
def test_a_planted_taste_is_found(method: Any) -> None:
    """Users like items of one topic only; a list by chance would have recall 0.1."""
    result = chosen(method, DATA, SPLIT, seed=0)
    assert ask(warm_questions(SPLIT, "test"), result.score).recall(6).mean() > 0.25


@pytest.mark.parametrize("method", [Vbpr(["image", "text"]), ContentMean(["text", "image"])])
def test_content_finds_items_nobody_has_met(method: ContentMean | Vbpr) -> None:
    result = chosen(method, DATA, SPLIT, seed=0)
    questions = cold_questions(SPLIT, "test")
    assert ask(questions, result.score).ndcg(3).mean() > 0.8


@pytest.mark.parametrize("method", [Ease(), ItemKnn(), BprMf(), LightGcn(), SasRec()])
def test_who_learns_from_events_alone_knows_nothing_of_new_items(method: Any) -> None:
    score = method.fit(known_before(DATA, SPLIT, "test"), 0, {"penalty": 1.0, "shrink": 1.0, "neighbors": 9.0,
                                                             "epochs": 1, "decay": 0.0})  # fmt: skip
    scores_QC = score(cold_questions(SPLIT, "test"))
    assert (scores_QC == scores_QC[:1, :1]).all()


@pytest.mark.parametrize("method", [BprMf(), Vbpr(["text"]), LightGcn(), SasRec()])
def test_equal_seeds_give_equal_factors(method: Any) -> None:
    known, setting = known_before(DATA, SPLIT, "val"), {"epochs": 2, "decay": 0.01}
    questions = warm_questions(SPLIT, "val")
    first, second, other = (method.fit(known, seed, setting)(questions) for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_before_the_test_the_validation_events_are_known_and_before_validation_not() -> None:
    before_val, before_test = (known_before(DATA, SPLIT, part) for part in ("val", "test"))
    assert len(before_test.events) == len(before_val.events) + len(SPLIT.val_events)
    assert not before_test.count_I[~SPLIT.warm_I].any()
    asked = warm_questions(SPLIT, "test")
    wanted = set(zip(asked.users_Q, asked.relevant_P, strict=True))
    assert not wanted & set(zip(before_test.events.users_E, before_test.events.items_E, strict=True))


def test_the_choice_is_that_of_validation() -> None:
    method = BestModality(["image", "text"])
    values = {
        (setting["modality"], setting["vectors"]): validation(score, SPLIT)
        for setting, score in method.candidates(known_before(DATA, SPLIT, "val"), 0)
    }
    found = chosen(method, DATA, SPLIT, 0).setting
    assert (found["modality"], found["vectors"]) == max(values, key=values.get)


def test_a_history_read_by_a_transformer_is_in_order() -> None:
    """Whoever has had item 0 and then 1 has 2 next, and the other way round 3."""
    rows = [(user, item, place) for user in range(60)
            for place, item in enumerate([0, 1, 2] if user % 2 else [1, 0, 3])]  # fmt: skip
    known = Known(events(*rows), np.ones(4, bool), 60, {})
    score = SasRec().fit(known, 0, {"epochs": 40})
    for user, expected in ((0, 3), (1, 2)):
        of = known.events.where(known.events.users_E == user)
        questions = warm_questions(split_of(4, of, set(), set()), "test")
        asked = type(questions)(
            of, np.array([0]), np.array([2]), np.array([0]), np.array([user]), np.arange(4), np.array([0]),
            np.array([0, 1]),
        )  # fmt: skip
        assert int(score(asked)[0].argmax()) == expected


def test_an_epoch_of_few_events_is_more_than_a_single_step() -> None:
    assert factors.batch_of(known_before(DATA, SPLIT, "test")) == factors.LEAST_BATCH
    many = Known(events(*((0, 0, day) for day in range(40_000))), np.ones(1, bool), 1, {})
    assert factors.batch_of(many) == factors.BATCH


def test_time_to_choose_grows_with_the_data_and_ends() -> None:
    assert baseline_seconds(6_000) < 10
    assert 55 < baseline_seconds(48_000) < 70
    assert baseline_seconds(10**8) == MOST_BASELINE_SECONDS


def test_looking_stops_when_nothing_has_been_better_for_long() -> None:
    class Worse(BprMf):
        taken = 0

        def candidates(self, known: Any, seed: Any) -> Iterator[Any]:
            for epochs in range(1, 100):
                self.taken = epochs
                score = ContentMean(["text"]).fit(known, 0, {})
                yield {"epochs": 1, "decay": 0.0}, (score if epochs == 2 else lambda some, score=score: -score(some))

    method = Worse()
    chosen(method, DATA, SPLIT, 0)
    assert method.taken == 2 + method.patience


def test_every_name_gives_a_baseline_and_content_one_for_each_modality() -> None:
    names = [method.name for method in baselines(BASELINE_NAMES, {"text", "image"})]
    assert len(names) == len(set(names)) == len(BASELINE_NAMES) + 2
    assert [method.name for method in baselines(["content"], {"text"})] == ["content mean, text"]
    assert baselines(["vbpr", "best-modality"], set()) == []


def test_an_unknown_baseline_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'ncf'.*ease"):
        baselines(["ease", "ncf"], set())


def test_the_planted_data_are_what_they_claim() -> None:
    assert dataset_of(DATA.events, DATA.features, 60).num_items == 60
    assert len(warm_questions(SPLIT, "test")) == 40
