"""What is done otherwise where the catalogue is large, or several processes make one training."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.train.worlds import DATA, SPLIT, Quiet, settings, trained
from worker.__main__ import main
from worker.align.users import UserModel
from worker.align.weights import build_model
from worker.data.files import write_events, write_items
from worker.synthetic import Audience, Catalogue
from worker.train.asked import steps_of_epoch
from worker.train.content import Block
from worker.train.items import CatalogueItems
from worker.train.outlook import EpochOutlook, duration, most_epochs
from worker.train.run import begin, learn_from_events
from worker.train.together import Together
from worker.train.trainer import Trainer

SMALL = [("--epochs", "3"), ("--batch", "33"), ("--width", "8"), ("--hidden", "8"), ("--learned-dim", "8")]
LARGE: dict[str, Any] = {"full_softmax_items": 1, "negatives": 8}


def trainer(**changes: Any) -> Trainer:
    given = settings(**changes)
    return begin(DATA, SPLIT, learn_from_events(DATA, SPLIT, given), given, Block(0.5, 0.0), "cpu").trainer


@pytest.mark.parametrize("graph", [False, True], ids=["", "graph"])
def test_what_is_remembered_of_an_item_is_made_anew_when_its_turn_comes(graph: bool) -> None:
    given = settings(graph=graph)
    begun = begin(DATA, SPLIT, learn_from_events(DATA, SPLIT, given), given, Block(0.5, 0.0), "cpu")
    made = begun.trainer.validation.vectors(begun.trainer.ema_model)
    before_ID = made.vectors_ID.clone()
    changed = build_model(begun.spec, begun.trainer.weights())
    with torch.no_grad():
        changed.output.weight.add_(torch.randn(changed.output.weight.shape, generator=torch.Generator().manual_seed(0)))
    usable = made.usable_I.nonzero()[:, 0]
    made.refresh(changed, 5)
    moved_I = (made.vectors_ID != before_ID).any(1)
    assert moved_I.nonzero()[:, 0].tolist() == usable[:5].tolist()
    for _ in range(2 * len(usable) // 5 + 1):  # neighbours are older by a round than what is made of them
        made.refresh(changed, 5)
    new_ID = begun.trainer.validation.vectors(changed).vectors_ID
    assert torch.allclose(made.vectors_ID, new_ID, atol=1e-5)


def test_no_step_makes_vectors_of_histories_where_they_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    inputs = CatalogueItems.inputs

    def counted(self: CatalogueItems, items_B: torch.Tensor, present_BM: torch.Tensor) -> Any:
        if torch.is_grad_enabled():  # not what is remembered, nor the teacher
            sizes.append(len(items_B))
        return inputs(self, items_B, present_BM)

    monkeypatch.setattr(CatalogueItems, "inputs", counted)

    def largest(**changes: Any) -> int:
        sizes.clear()
        trainer(**LARGE, batch=16, **changes).epoch(1)
        return max(sizes)

    assert largest() <= 16 + 8 < largest(refreshed=0)


def test_what_is_learned_of_candidates_is_learned_from_histories_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their vectors of this step, which can be learned from, stand in the histories instead of those remembered."""
    learned_from: list[bool] = []
    forward = UserModel.forward

    def watched(self: UserModel, table_RD: torch.Tensor, histories: Any) -> Any:
        if self.training:
            learned_from.append(table_RD.requires_grad)
        return forward(self, table_RD, histories)

    monkeypatch.setattr(UserModel, "forward", watched)
    trainer(**LARGE, batch=16, epoch_steps=2).epoch(1)
    assert learned_from == [True, True]


def test_histories_of_nothing_but_first_events_are_no_error() -> None:
    line = SPLIT.events
    first_E = np.zeros(len(line), bool)
    first_E[np.unique(line.users_E, return_index=True)[1]] = True
    split = replace(SPLIT, train_E=SPLIT.train_E & first_E)
    given = settings(**LARGE)
    learned = learn_from_events(DATA, SPLIT, given)
    begun = begin(DATA, SPLIT, learned, given, Block(0.5, 0.0), "cpu")
    alone = Trainer(begun.spec, begun.trainer.weights(), learned.features, split, None, given)
    assert np.isfinite(alone.epoch(1).losses.next_item)


def test_an_epoch_has_no_more_steps_than_it_may_and_asks_others_the_next_time(tmp_path: Path) -> None:
    watcher = Quiet()
    trained(tmp_path / "space", watcher=watcher, epochs=2, patience=2, batch=8, epoch_steps=3)
    assert watcher.num_steps == 6
    report = json.loads((tmp_path / "space" / "training" / "report.json").read_text())
    assert report["data"]["questions_of_an_epoch"] == 24 < report["data"]["questions"]


def test_an_epoch_is_a_pass_unless_a_pass_is_long() -> None:
    assert [steps_of_epoch(steps, None) for steps in (1, 35, 500, 501, 9_000)] == [1, 35, 500, 100, 100]
    assert [steps_of_epoch(35, given) for given in (3, 35, 90)] == [3, 35, 35]


# ---------------------------------------------------------------------- what is said


def test_the_first_steps_say_once_how_long_all_will_take() -> None:
    outlook, said = EpochOutlook(100, 0.0), []
    for step in range(1, 101):
        now_s = 5.0 + step * 0.5  # it took a while to begin
        outlook.step(now_s)
        said.append(outlook.estimate(now_s, epochs_left=10))
    (only,) = [each for each in said if each]
    assert said[11] == only
    assert only.startswith("a step takes 0.5 s, an epoch 50 s and its validation, and 10 epochs, the most")
    assert "8 min" in only
    assert "GB" in only


@pytest.mark.parametrize("num_steps", [1, 2, 3, 11])
def test_an_epoch_of_few_steps_is_estimated_from_these(num_steps: int) -> None:
    outlook, said = EpochOutlook(num_steps, 0.0), []
    for step in range(1, num_steps + 1):
        outlook.step(step * 2.0)
        said.append(outlook.estimate(step * 2.0, epochs_left=30))
    assert [each is not None for each in said] == [False] * (num_steps - 1) + [True]
    assert str(said[-1]).startswith("a step takes 2 s")
    short = EpochOutlook(1, 0.0)
    short.step(2.0)
    assert short.estimate(2.0, epochs_left=29) is None


def test_on_a_pipe_a_line_a_minute_says_what_is_left() -> None:
    outlook, lines = EpochOutlook(400, 0.0), []
    for step in range(1, 401):
        outlook.step(step * 1.0)
        lines.append(outlook.line(step * 1.0))
    assert [step for step, each in enumerate(lines, 1) if each] == [60, 120, 180, 240, 300, 360]
    assert lines[59] == "60 of 400 steps, 6 min left"
    assert (duration(99), duration(5_999), duration(7_200)) == ("99 s", "100 min", "2.0 h")


def test_the_most_epochs_are_those_of_all_recipes_and_of_the_final_fit() -> None:
    assert most_epochs(settings(recipes="plain", final_fit=False, epochs=7)) == 7
    assert most_epochs(settings(recipes="plain,graph,cosine", probe_epochs=5, final_fit=True, epochs=7)) == 24


# ---------------------------------------------------------------------- several processes


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_means_of_all_processes_are_the_mean_of_all_questions(count: int, size: int) -> None:
    values_Q = np.random.default_rng(count).standard_normal(count)
    means = []
    for rank in range(size):
        mine, share = Together(rank, size).part(count)
        means.append(share * values_Q[mine].mean())
    assert np.mean(means) == pytest.approx(values_Q.mean())


def test_two_processes_have_the_loss_curve_of_one_and_write_one_space(tmp_path: Path) -> None:
    catalogue = Catalogue(3, missing_share=0.3)
    items = list(catalogue.items(60))
    write_items(tmp_path / "items.msgpack", (item.message(1, 0) for item in items))
    audience = Audience(catalogue, 30, seed=0, start_ms=0)
    write_events(tmp_path / "events.msgpack", (each.message() for each in audience.events(items, 500, end_ms=10**9)))

    def arguments(name: str) -> list[str]:
        files = ["--items", str(tmp_path / "items.msgpack"), "--events", str(tmp_path / "events.msgpack")]
        few = [part for each in SMALL for part in each]
        some = ["--recipes", "plain", "--no-final-fit", "--threads", "1", "--device", "cpu"]
        return ["train", str(tmp_path / name), *files, "--event", "view=0.3", "--event", "like=1", *few, *some]

    assert main(arguments("one")) == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "--", "worker", *arguments("two")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "2 processes divide the questions of a step among them" in done.stderr
    assert done.stderr.count("reading items and events") == 1
    one, two = (json.loads((tmp_path / name / "training" / "report.json").read_text()) for name in ("one", "two"))
    for name in ("next_item_loss", "agreement_loss", "consistency_loss"):
        curves = [[each[name] for each in report["epochs"]] for report in (one, two)]
        assert curves[0] == pytest.approx(curves[1], rel=2e-4), name
    losses = [each["next_item_loss"] for each in one["epochs"]]
    assert losses[-1] < losses[0]
