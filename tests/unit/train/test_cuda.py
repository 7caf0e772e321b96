"""A training on a GPU. Skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.unit.train.test_training import figures_of
from tests.unit.train.worlds import DATA, SPLIT, Quiet, settings
from worker.train.run import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("changes", [{}, {"graph": True}, {"full_softmax_items": 1, "negatives": 8}])
def test_what_a_gpu_has_learned_and_judged_holds_on_a_cpu(tmp_path: Path, changes) -> None:
    space, learned = train(DATA, SPLIT, settings(epochs=3, **changes), tmp_path / "space", "cuda", Quiet())
    assert space.manifest.evaluation == pytest.approx(figures_of(space, learned), abs=0.02)
