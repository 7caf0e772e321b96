"""The graph computes what the model computes, for batches of any size."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.align.builders import Item, feature, make_items, make_space, spec, with_gaps
from worker.align import graph
from worker.align.collate import Collator
from worker.align.collated import Collated
from worker.align.graph import GraphedModel
from worker.align.model import AlignModel
from worker.align.padding import rising_sizes
from worker.align.spec import ModalitySpec, SpaceSpec
from worker.align.weights import build_model

SPEC = spec({"text": 24, "frames": ModalitySpec(dim=9, max_vectors=4)}, layers=2)


def model_in(directory: Path, dtype: torch.dtype = torch.float32, of: SpaceSpec = SPEC) -> AlignModel:
    return build_model(of, make_space(directory, of).weights, dtype)


def collate(items: list[Item]) -> Collated:
    batch = Collator(SPEC, rising_sizes(64)).collate(items)
    assert batch is not None
    return batch


def dense(count: int) -> list[Item]:
    return make_items(SPEC, count, dtype="f2")


def several(count: int) -> list[Item]:
    random = np.random.default_rng(0)
    return [{"frames": feature(random.standard_normal((3, 9)), "i1")} for _ in range(count)]


def gapped(count: int) -> list[Item]:
    return [*with_gaps(make_items(SPEC, count - 1)), {"text": feature(np.ones(24))}]


@pytest.mark.parametrize("modality_vectors", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("first", [1, 37])
@pytest.mark.parametrize("make", [dense, several, gapped])
def test_a_graph_made_at_one_size_gives_the_same_bits_at_every_size(
    tmp_path: Path, make: Callable[[int], list[Item]], first: int, dtype: torch.dtype, modality_vectors: bool
) -> None:
    model = model_in(tmp_path, dtype)
    graphed = GraphedModel(model, modality_vectors=modality_vectors)
    graphed(collate(make(first)))
    for count in (1, 2, 5, 37, 64):
        batch = collate(make(count))
        outputs = graphed(batch)
        with torch.inference_mode():
            expected = model.outputs(batch.layout, batch.tensors, modality_vectors=modality_vectors)
        assert len(outputs) == len(expected)
        for output, eager in zip(outputs, expected, strict=True):
            assert np.array_equal(output, eager.numpy()[:count])
    assert graphed.graphed


def test_one_graph_serves_all_batches_of_a_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traced: list[object] = []
    trace = torch.jit.trace
    monkeypatch.setattr(torch.jit, "trace", lambda *args, **kwargs: (traced.append(args), trace(*args, **kwargs))[1])
    graphed = GraphedModel(model_in(tmp_path))
    for count in (3, 4, 30):
        graphed(collate(dense(count)))
    assert len(traced) == 1


def test_without_tracing_the_model_runs_eagerly_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_in(tmp_path)
    expected = GraphedModel(model)(collate(dense(3)))
    monkeypatch.delattr(torch.jit, "trace")
    graphed = GraphedModel(model)
    with caplog.at_level(logging.WARNING):
        outputs = graphed(collate(dense(3)))
        graphed(collate(dense(3)))
    assert all(np.array_equal(a, b) for a, b in zip(outputs, expected, strict=True))
    assert not graphed.graphed
    assert [record.message.split(",")[0] for record in caplog.records] == ["the model runs eagerly"]


def test_past_the_limit_of_graphs_the_result_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_in(tmp_path)
    expected = GraphedModel(model)(collate(gapped(9)))
    monkeypatch.setattr(graph, "MAX_GRAPHS", 1)
    graphed = GraphedModel(model)
    graphed(collate(dense(3)))
    outputs = graphed(collate(gapped(9)))
    assert all(np.array_equal(a, b) for a, b in zip(outputs, expected, strict=True))
    assert graphed.graphed


def test_a_failing_model_is_not_taken_for_failing_tracing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("the device is on fire")

    model = model_in(tmp_path)
    monkeypatch.setattr(model, "outputs", fail)
    graphed = GraphedModel(model)
    with pytest.raises(RuntimeError, match="the device is on fire"):
        graphed(collate(dense(3)))
    monkeypatch.undo()
    graphed(collate(dense(3)))
    assert graphed.graphed
