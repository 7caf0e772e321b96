"""A space in closed form: that its vectors say what the formula says, and that nothing that is asked is learned."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.evaluate.planted import planted
from worker.align import AlignRuntime, Space
from worker.data import Dataset, Interactions, split_by_time
from worker.data.trained_on import read_trained_on
from worker.errors import ConfigError
from worker.evaluate.questions import warm_questions
from worker.evaluate.spaces import embed_items, space_score
from worker.train import closed_form
from worker.train.closed_form import Choice, chosen, closed_form_space, fitted
from worker.train.settings import TrainSettings

DATA, SPLIT = planted()
SETTINGS = TrainSettings(event_weights={"like": 1.0}, last=10)
CHOICE = Choice(0.7, 2.0, 4.0, 0.0)


def with_features(features: Any, data: Any = DATA) -> Dataset:
    return Dataset(data.item_ids, data.user_ids, features, data.events, data.neighbors, "")


def test_published_vectors_rank_as_the_formula_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_form, "chosen", lambda *_, **__: CHOICE)
    text_only = with_features({"text": DATA.features["text"]})
    judged = SETTINGS.model_copy(update={"final_fit": False})
    space, learned = closed_form_space(text_only, SPLIT, judged, tmp_path / "space", rank_seen=False).shipped
    items = embed_items(AlignRuntime(Space.load(tmp_path / "space"), device="cpu", dtype="float32"),
                        with_features(learned.features))  # fmt: skip
    asked = warm_questions(SPLIT, "val")
    ours_QI = space_score(space, items)(asked)

    known = SPLIT.events.where(SPLIT.train_E)
    count_I = np.bincount(known.items_E, minlength=DATA.num_items)
    together_II, next_II = np.zeros((2, DATA.num_items, DATA.num_items))
    for user in range(DATA.num_users):
        line = known.items_E[known.users_E == user]
        for place, one in enumerate(line):
            for other in line:
                if one != other:
                    together_II[one, other] += 1 / len(line) / np.sqrt((count_I[one] + 1) * (count_I[other] + 1))
            if place:
                next_II[line[place - 1], one] += 1 / (count_I[line[place - 1]] + 1)
    content_IC = closed_form._content(DATA.features["text"])[0].numpy()
    mixed_II = content_IC @ content_IC.T + 2 * together_II + 4 * next_II
    rows, history = asked.history_pairs()
    expected_QI = np.zeros_like(ours_QI.numpy())
    for question in range(len(asked)):
        of_user = history[rows == question]
        weights = 0.5 ** (np.arange(len(of_user))[::-1] / 0.7)
        expected_QI[question] = weights / weights.sum() @ mixed_II[of_user]
    # Half of the rank that there may be is kept, and lengths are left out.
    likeness = [np.corrcoef(one, other)[0, 1] for one, other in zip(ours_QI.numpy(), expected_QI, strict=True)]
    assert min(likeness) > 0.97
    assert np.mean(likeness) > 0.99


def test_the_mixture_is_that_of_what_there_is_to_find() -> None:
    """Everybody goes round in one circle of items whose content says nothing."""
    random = np.random.default_rng(0)
    users, places = np.repeat(np.arange(80), 6), np.tile(np.arange(6), 80)
    items = (random.integers(0, 30, 80)[users] + places) % 30
    events = Interactions(users, items, places * 86_400_000 + users, np.ones(480, np.float32))
    events = events.where(np.argsort(events.times_ms_E, kind="stable"))
    noise = type(DATA.features["text"])("t", random.standard_normal((30, 8)).astype(np.float32), np.arange(31))
    data = Dataset([str(each) for each in range(30)], [str(each) for each in range(80)], {"text": noise}, events,
                   [()] * 30, "")  # fmt: skip
    split = split_by_time(events, np.zeros(30, bool), np.zeros(30, bool))
    choice = chosen(data, split)
    assert choice.following >= 4
    assert choice.half_life <= 1
    assert choice.ndcg > 0.9


def test_a_fit_that_is_judged_has_learned_nothing_of_what_is_asked(tmp_path: Path) -> None:
    for final_fit in (False, True):
        folder = tmp_path / str(final_fit)
        settings = SETTINGS.model_copy(update={"final_fit": final_fit})
        closed_form_space(DATA, SPLIT, settings, folder, rank_seen=True)
        record = read_trained_on(folder / "training")
        assert record is not None
        assert record.withholds_nothing is final_fit
        assert len(record.learned) == (len(SPLIT.events) if final_fit else SPLIT.train_E.sum())


def test_equal_seeds_give_equal_spaces_and_seeds_differ_in_rounding_alone() -> None:
    found = [fitted(DATA, SPLIT, CHOICE, "behavior", 10, {"like": 1.0}, seed) for seed in (0, 0, 1)]
    behavior = [each.features["behavior"] for each in found]
    assert (behavior[0].vectors_NK == behavior[1].vectors_NK).all()
    assert behavior[0].encoder == behavior[1].encoder != behavior[2].encoder
    assert np.linalg.norm(behavior[0].vectors_NK, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert all(torch.equal(found[0].weights[name], found[1].weights[name]) for name in found[0].weights)


def test_a_modality_of_the_same_name_and_none_at_all_are_refused() -> None:
    with pytest.raises(ConfigError, match="--behavior"):
        fitted(DATA, SPLIT, CHOICE, "text", 10, {"like": 1.0}, 0)
    with pytest.raises(ConfigError, match="no item has features"):
        fitted(with_features({}), SPLIT, CHOICE, "behavior", 10, {"like": 1.0}, 0)
