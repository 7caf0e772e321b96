"""Trainings that are compared: run once, remembered by what they were of, and compared user by user."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bench import fusion_runs
from tests.bench.fusion_runs import MEASURES, Outcome, Training, Trainings
from tests.bench.fusions import gains, tables, with_means
from tests.unit.train.worlds import DATA, SPLIT, settings
from worker.data import Features

TRAININGS = [Training("gated", "", settings(epochs=1, seed=seed, fusion="gated")) for seed in (0, 1)]


def runs(directory: Path, dataset: Any = DATA) -> Trainings:
    return Trainings({"": dataset}, SPLIT, "cpu", 1, directory / "results.jsonl")


def outcome(kind: str, seed: int, selection_metric: float, values: list[float]) -> Outcome:
    by_user = dict.fromkeys(MEASURES, values)
    return Outcome(kind, "", seed, f"{kind} {seed}", selection_metric, 1, 1, 0.1, 0.1, "cpu", by_user)


def test_what_was_trained_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = list(runs(tmp_path).run(TRAININGS, jobs=1))
    assert [each.seed for each in first] == [0, 1]
    assert first[0].by_user != first[1].by_user
    assert all(0 <= value <= 1 for name in MEASURES for value in first[0].by_user[name])
    monkeypatch.setattr(fusion_runs, "train", None)
    again = {each.seed: each for each in runs(tmp_path).run(TRAININGS[::-1], jobs=1)}
    assert again == {each.seed: each for each in first}


def test_other_data_and_other_settings_are_trained(tmp_path: Path) -> None:
    list(runs(tmp_path).run(TRAININGS[:1], jobs=1))
    name, known = next(iter(DATA.features.items()))
    changed = replace(DATA, features={**DATA.features, name: replace(known, vectors_NK=known.vectors_NK * 2)})
    for trainings, other in ((runs(tmp_path, changed), TRAININGS[0]), (runs(tmp_path), TRAININGS[1])):
        before = (tmp_path / "results.jsonl").read_text().count("\n")
        list(trainings.run([other], jobs=1))
        assert (tmp_path / "results.jsonl").read_text().count("\n") == before + 1


def test_several_at_once_come_to_what_one_after_the_other_come_to(tmp_path: Path) -> None:
    one = {each.seed: each.by_user for each in runs(tmp_path / "one").run(TRAININGS, jobs=1)}
    both = {each.seed: each.by_user for each in runs(tmp_path / "both").run(TRAININGS, jobs=2)}
    assert both == one


def test_gains_are_of_users_and_seeds_are_no_further_users() -> None:
    ones = [outcome("gated", 0, 0.2, [1.0, 0.0, 1.0, 1.0]), outcome("gated", 1, 0.2, [0.0, 0.0, 1.0, 1.0])]
    others = [outcome("concat_mlp", 0, 0.1, [0.0, 0.0, 1.0, 0.0])]
    differences = np.array([0.5, 0.0, 0.0, 1.0])
    expected = f"+{differences.mean():.4f} ± {differences.std(ddof=1) / 2:.4f}"
    assert gains(ones, others) == [expected] * len(MEASURES)


def test_the_best_by_validation_comes_first_and_the_rest_are_compared_with_the_default() -> None:
    found = [
        outcome("concat_mlp", 0, 0.1, [0.5, 0.7]),
        outcome("gated", 0, 0.1, [0.5, 0.7]),
        outcome("gated", 1, 0.3, [0.5, 0.7]),
    ]
    text = "\n".join(tables(found, {"content": {name: np.array([0.25, 0.75]) for name in MEASURES}}))
    assert text.index("gated") < text.index("concat_mlp")
    assert "0.2000 ± 0.1414" in text
    assert "gated - concat_mlp" in text
    assert "concat_mlp - gated" not in text


def test_the_mean_of_an_items_vectors_stands_for_them() -> None:
    several = Features("e", np.array([[1, 3], [3, 5], [7, 7]], np.float32), np.array([0, 2, 2, 3]))
    (mean,) = with_means(replace(DATA, features={"text": several})).features.values()
    assert mean.vectors_NK.tolist() == [[2, 4], [7, 7]]
    assert mean.starts.tolist() == [0, 1, 1, 2]
    assert mean.encoder != several.encoder
