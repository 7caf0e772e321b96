"""A training on a GPU. Skipped where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.train.test_training import StoppedError, StopsAfter, figures_of
from tests.unit.train.worlds import DATA, SPLIT, Quiet, settings
from worker.train.run import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("changes", [{}, {"graph": True}, {"full_softmax_items": 1, "negatives": 8}])
def test_what_a_gpu_has_learned_and_judged_holds_on_a_cpu(tmp_path: Path, changes: dict[str, Any]) -> None:
    space, learned = train(DATA, SPLIT, settings(epochs=3, **changes), tmp_path / "space", "cuda", Quiet())
    assert space.manifest.evaluation == pytest.approx(figures_of(space, learned), abs=0.02)


@pytest.mark.parametrize("changes", [{}, {"graph": True}, {"fusion": "cross_attention"}, {"user": "decayed_sum"}])
def test_on_a_gpu_equal_seeds_give_equal_spaces_interrupted_or_not(tmp_path: Path, changes: dict[str, Any]) -> None:
    chosen = settings(epochs=4, patience=4, **changes)
    whole, _ = train(DATA, SPLIT, chosen, tmp_path / "whole", "cuda", Quiet())
    with pytest.raises(StoppedError):
        train(DATA, SPLIT, chosen, tmp_path / "parts", "cuda", StopsAfter(2))
    resumed, _ = train(DATA, SPLIT, chosen, tmp_path / "parts", "cuda", Quiet())
    assert resumed.space_id == whole.space_id
