"""What is chosen by validation, said in a verdict, and fitted once more to everything."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.bench.histories import split_of, world
from tests.unit.train.worlds import DATA, SPLIT, Quiet, settings, trained, trained_all
from worker.align import AlignRuntime, Space
from worker.align.users import AttentionPool, UserModel
from worker.data import Features
from worker.data.split import everything_to_learn_from
from worker.data.trained_on import read_trained_on
from worker.evaluate.baselines import ContentMean, Ease, known_before
from worker.evaluate.questions import ask, cold_questions, warm_questions
from worker.evaluate.spaces import embed_items, space_score
from worker.train.content import Block, chosen_block
from worker.train.finish import Finish, finished
from worker.train.run import learn_from_events
from worker.train.start import space_spec, starting_weights
from worker.train.trainer import Trainer


def test_what_is_shipped_has_learned_everything_and_what_is_judged_has_not(tmp_path: Path) -> None:
    watcher = Quiet()
    made = trained_all(tmp_path / "space", watcher=watcher, epochs=2, final_fit=True)
    shipped, judged = made.shipped, made.judged
    assert Space.load(tmp_path / "space").space_id == shipped.space.space_id
    assert Space.load(tmp_path / "space" / "training" / "judged").space_id == judged.space.space_id
    assert shipped.space.manifest.evaluation == judged.space.manifest.evaluation
    cold_I = ~SPLIT.warm_I
    assert not judged.learned.features["behavior"].present_I[cold_I].any()
    liked_I = np.bincount(SPLIT.events.items_E, minlength=len(cold_I)) > 0
    assert shipped.learned.features["behavior"].present_I[cold_I & liked_I].all()
    assert (cold_I & liked_I).any()
    whole, part = (read_trained_on(tmp_path / "space" / each) for each in ("training", "training/judged/training"))
    assert whole is not None
    assert part is not None
    assert whole.withholds_nothing
    assert len(part.cold_test) == SPLIT.cold_test_I.sum()
    report = json.loads((tmp_path / "space" / "training" / "report.json").read_text())
    assert report["figures_are_of"] == judged.space.space_id != report["space_id"] == shipped.space.space_id
    assert report["final_fit"]["training_events"] == len(SPLIT.events) > report["data"]["training_events"]
    assert report["final_fit"]["epochs"] == report["best_epoch"]
    assert [each.split(",")[0] for each in watcher.begun] == ["training", "the final fit"]


def test_the_better_recipe_goes_on_from_where_it_is(tmp_path: Path) -> None:
    """With a learning rate at which nothing is learned all recipes are alike, and the first goes on."""
    watcher = Quiet()
    made = trained_all(tmp_path / "space", watcher=watcher, recipes="cosine,plain", probe_epochs=1, epochs=2)
    report = json.loads((tmp_path / "space" / "training" / "report.json").read_text())
    values = report["chosen"]["probes"]
    assert set(values) == {"cosine", "plain"}
    expected = "plain" if values["plain"] > 1.02 * values["cosine"] else "cosine"
    assert report["chosen"]["recipe"] == expected
    assert (made.shipped.space.spec.prior is None) == (expected == "cosine")
    assert [each.epoch for each in watcher.epochs] == [1, 1, 2]
    assert list((tmp_path / "space" / "training").glob("**/checkpoint*")) == []
    alone = trained_all(tmp_path / "alone", recipes=expected, epochs=2)
    assert alone.shipped.space.space_id == made.shipped.space.space_id


def test_a_space_that_a_simple_method_beats_is_told_so(tmp_path: Path) -> None:
    """Text is the topic itself, and nothing has been learned."""
    topics = np.eye(6, 12, dtype=np.float32)[np.arange(60) // 10]
    told = {"text": Features("topics", topics, np.arange(61))}
    changes: dict[str, Any] = {"epochs": 1, "learning_rate": 1e-9, "behavior_dim": 0, "content_dim": 0}
    made = trained_all(tmp_path / "space", replace(DATA, features=told), **changes)
    (line,) = [each for each in made.told if each.startswith("new items, by validation")]
    report = json.loads((tmp_path / "space" / "training" / "report.json").read_text())
    compared = {each["kind"]: each for each in report["verdict"]["compared"]}
    for kind, each in compared.items():
        assert each["gained"] == pytest.approx(each["space"] - each["best"])
        is_worse = any(f"{each['baseline']} is the better choice" in other for other in made.told)
        assert is_worse == (each["gained"] < 0), kind
    assert compared["new"]["baseline"] in line
    assert compared["known"]["gained"] < 0


def test_content_is_chosen_by_what_it_finds() -> None:
    """Most of the variance says nothing, so that whitening finds more; and the other way round."""
    random = np.random.default_rng(0)
    topics = random.standard_normal((6, 4))[np.arange(60) // 10]
    for loud, whitening in ((3.0, 0.5), (0.3, 0.0)):
        vectors = np.column_stack([topics, loud * random.standard_normal((60, 12))]).astype(np.float32)
        features = {"text": Features("encoder", vectors, np.arange(61))}
        assert chosen_block(features, SPLIT, 64, 1.0, None).whitening == whitening
    assert chosen_block(features, SPLIT, 64, 0.25, 1.0) == Block(0.25, 1.0)


def test_a_users_content_is_made_of_the_same_content_of_items(tmp_path: Path) -> None:
    space, _ = trained(tmp_path / "space", epochs=2)
    merge = space.weights["user.pool.merge.weight"]
    learned, dim = space.spec.learned_dim, space.spec.dim
    content_CF = merge[learned:]
    own = torch.eye(dim)[learned:].repeat(1, content_CF.shape[1] // dim).bool()
    assert not content_CF[~own].any()
    assert content_CF[own].ne(0).all()
    assert not torch.equal(content_CF[own], torch.full_like(content_CF[own], 1 / 3))
    assert merge[:learned, learned:].any()


def test_where_new_items_stand_among_known_ones_changes_nothing_among_these() -> None:
    chosen = settings()
    learned = learn_from_events(DATA, SPLIT, chosen)
    block = Block(0.25, 0.0)
    spec = space_spec(learned.features, chosen, block)
    trainer = Trainer(spec, starting_weights(spec, learned.features, 0, block), learned.features, SPLIT, None, chosen)
    trainer.epoch(1)
    weights = trainer.weights()
    validation = trainer.validation
    done = finished(spec, weights, Finish(4.0, 0.5), validation)
    assert done.spec.new is not None
    assert done.spec.new.content_weight == 4.0 * spec.content_weight
    shifted = done.weights["prior.bias"] - weights["prior.bias"]
    assert shifted.abs() > 0
    assert torch.equal(done.weights["prior.weight"], weights["prior.weight"])
    assert set(done.weights) == set(weights)
    assert isinstance(trainer.model.user, UserModel)
    assert isinstance(trainer.model.user.pool, AttentionPool)


def test_everything_is_everything() -> None:
    whole = everything_to_learn_from(SPLIT)
    assert whole.train_E.all()
    assert whole.warm_I.all()
    assert not len(whole.val_events)
    assert SPLIT.cold_test_I.any()


def test_short_histories_and_a_few_very_busy_users(tmp_path: Path) -> None:
    """The recipe beats EASE and the mean of content, which the one of before did not: `tests.bench.histories`."""
    torch.set_num_threads(1)
    dataset = world("short")
    split = split_of(dataset)
    changes = {"width": 64, "hidden": 256, "learned_dim": 64, "behavior_dim": 64, "batch": None, "averaging": 0.95}
    space, learned = trained(tmp_path / "space", dataset, split, epochs=7, **changes)
    runtime = AlignRuntime(space, device="cpu", dtype="float32", threads=1)
    score = space_score(space, embed_items(runtime, replace(dataset, features=learned.features)))
    known, new = warm_questions(split, "test"), cold_questions(split, "test")
    before = known_before(dataset, split, "test")
    ease = max(float(ask(known, each).ndcg(20).mean()) for _, each in Ease().candidates(before, 0))
    content = float(ask(new, ContentMean(["image", "sound"]).fit(before, 0, {})).ndcg(20).mean())
    assert float(ask(known, score).ndcg(20).mean()) > ease
    assert float(ask(new, score).ndcg(20).mean()) > content


def test_validation_asks_a_sample_where_users_and_items_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked() -> tuple[int, int]:
        learned = learn_from_events(DATA, SPLIT, settings())
        block = Block(0.5, 0.0)
        spec = space_spec(learned.features, settings(), block)
        weights = starting_weights(spec, learned.features, 0, block)
        validation = Trainer(spec, weights, learned.features, SPLIT, None, settings()).validation
        return len(validation.known), len(validation.new)

    every = asked()
    monkeypatch.setattr("worker.train.asked.LEAST_ASKED", 10)
    monkeypatch.setattr("worker.train.asked.MOST_SCORES", 20 * DATA.num_items)
    known, new = asked()
    assert known == 20 < every[0]
    assert 20 < new <= every[1]  # among fewer candidates more are asked
