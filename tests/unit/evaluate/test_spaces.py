"""A space at the questions is the worker's own code and the ranker's plain arithmetic."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from schemas import Feature
from tests.unit.evaluate.planted import planted
from worker.align import AlignRuntime, Space, command, create_space
from worker.align.spec import GraphSpec
from worker.align.weights import build_user_model
from worker.errors import SpaceError
from worker.evaluate.questions import ask, cold_questions, warm_questions
from worker.evaluate.retrieval import retrievals
from worker.evaluate.spaces import ItemVectors, embed_items, space_score, vector_score

DATA, SPLIT = planted()
ENCODERS = {name: each.encoder for name, each in DATA.features.items()}


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Space:
    directory = tmp_path_factory.mktemp("spaces") / "space"
    return command.create(directory, {"text": 12, "image": 8}, 32, encoders=ENCODERS, event_weights={"like": 1.0})


@pytest.fixture(scope="module")
def runtime(space: Any) -> AlignRuntime:
    return AlignRuntime(space, device="cpu", dtype="float32", threads=1, modality_vectors=True)


def feature(name: str, item: int) -> Feature:
    each = DATA.features[name]
    return Feature.from_numpy(each.vectors_NK[each.starts[item]], "f4", encoder=each.encoder)


def test_vectors_are_those_that_are_served(runtime: AlignRuntime) -> None:
    items = embed_items(runtime, DATA)
    served = runtime.embed([{"text": feature("text", 0)}, {"text": feature("text", 7), "image": feature("image", 7)}])
    assert torch.allclose(items.vectors_ID[[0, 7]], torch.from_numpy(served.vectors), atol=1e-6)  # item 0 has no image
    assert torch.allclose(items.alone["image"][7], torch.from_numpy(served.modality_vectors["image"][1]), atol=1e-6)
    assert not items.alone["image"][0].any()


def test_what_is_left_out_is_as_if_the_items_lacked_it(runtime: AlignRuntime) -> None:
    without_text = embed_items(runtime, DATA, {"image"})
    assert without_text.usable_I.tolist() == DATA.features["image"].present_I.tolist()
    assert without_text.refused == {"no_modality": 12}


def test_a_space_for_other_items_is_refused_with_the_reason(tmp_path: Path) -> None:
    other = command.create(tmp_path / "space", {"text": 13}, 32, event_weights={"like": 1.0})
    with pytest.raises(SpaceError, match=r"none of the items.*features\.text\.shape"):
        embed_items(AlignRuntime(other, device="cpu", dtype="float32", threads=1), DATA)


def test_the_score_is_a_dot_product_and_the_prior(space: Space, runtime: AlignRuntime) -> None:
    items = embed_items(runtime, DATA)
    items = replace(items, priors_I=torch.linspace(0, 1, DATA.num_items))
    questions = warm_questions(SPLIT, "test").where(np.array([3]))
    scores_C = space_score(space, items)(questions)[0]
    _, history = questions.history_pairs()
    times_ms = questions.line.times_ms_E[questions.begin_Q[0] : questions.end_Q[0]]
    worth = 0.5 ** ((times_ms[-1] - times_ms) / space.spec.user.half_life_ms)
    user_D = torch.nn.functional.normalize((torch.from_numpy(worth)[:, None] * items.vectors_ID[history]).sum(0), dim=0)
    assert torch.allclose(scores_C.double(), items.vectors_ID.double() @ user_D + items.priors_I, atol=1e-5)


def test_a_user_without_a_vector_gets_the_priors_and_an_item_without_one_no_place(space: Space) -> None:
    usable_I = torch.ones(DATA.num_items, dtype=torch.bool)
    usable_I[5] = False
    vectors_ID = torch.nn.functional.normalize(torch.randn(DATA.num_items, 32, generator=torch.manual_seed(0)))
    items = ItemVectors(vectors_ID, usable_I, torch.arange(DATA.num_items) / 100, {}, {})
    questions = warm_questions(SPLIT, "test").behind(100)
    scores_QC = vector_score(build_user_model(space.spec, space.weights), 50, items)(questions)
    assert (scores_QC[:, 5] == -torch.inf).all()
    assert torch.equal(scores_QC[:, usable_I], items.priors_I[usable_I].expand(len(questions), -1))


def test_a_space_without_users_is_refused(tmp_path: Path, space: Space, runtime: AlignRuntime) -> None:
    silent = create_space(tmp_path / "silent", space.spec.model_copy(update={"user": None}))
    with pytest.raises(SpaceError, match="says nothing of users"):
        space_score(silent, embed_items(runtime, DATA))


def test_even_an_untrained_space_finds_the_planted_topics(space: Space, runtime: AlignRuntime) -> None:
    score = space_score(space, embed_items(runtime, DATA))
    assert ask(cold_questions(SPLIT, "test"), score).ndcg(3).mean() > 0.6


def test_neighbours_are_looked_at_once_and_as_they_were_before(tmp_path: Path, space: Space) -> None:
    graph = GraphSpec(width=8, max_neighbors=2)
    with_graph = create_space(tmp_path / "graph", space.spec.model_copy(update={"graph": graph}), seed=1)
    runtime = AlignRuntime(with_graph, device="cpu", dtype="float32", threads=1)
    before = embed_items(runtime, DATA).vectors_ID
    neighbors: list[tuple[int, ...]] = [()] * DATA.num_items
    neighbors[0], neighbors[1] = (1,), (2,)
    after = embed_items(runtime, replace(DATA, neighbors=neighbors)).vectors_ID
    strength = with_graph.weights["graph.strength"]
    by_hand = torch.nn.functional.normalize(before[[0, 1]] + strength * before[[1, 2]], dim=1)
    assert torch.allclose(after[[0, 1]], by_hand, atol=1e-6)
    assert torch.equal(after[2:], before[2:])


def test_retrieval_counts_only_items_that_have_both() -> None:
    alone = {"text": torch.eye(4), "image": torch.eye(4)[[1, 0, 2, 3]] * torch.tensor([[1.0], [1], [1], [0]])}
    there, back = sorted(retrievals(alone, np.ones(4, bool)), key=lambda each: each.query)
    assert (there.query, there.answer, there.num_items) == ("image", "text", 3)
    assert there.ranks_N.tolist() == [2, 2, 0]  # a tie with the third counts against the first two
    assert (there.recall(1), there.recall(50), there.median_rank) == (pytest.approx(1 / 3), 1.0, 3.0)
    assert (back.query, back.chance(1), back.chance(50)) == ("text", pytest.approx(1 / 3), 1.0)


def test_one_item_is_no_retrieval() -> None:
    alone = {"text": torch.eye(4), "image": torch.eye(4)}
    assert list(retrievals(alone, np.arange(4) == 2)) == []
