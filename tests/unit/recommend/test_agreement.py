"""What is recommended is what evaluation ranked: the same vectors through the wire give the same list."""

from pathlib import Path

import numpy as np
import pytest
import torch

from schemas import ItemVector, Tensor, UserVector, decode, encode
from tests.unit.evaluate.planted import planted
from worker.align import AlignRuntime, command
from worker.align.users import Histories
from worker.align.weights import build_user_model
from worker.evaluate.questions import warm_questions
from worker.evaluate.spaces import embed_items, space_score
from worker.recommend.answers import Search, answer, of_user
from worker.recommend.published import Activity, LeftOut, collect_items, collect_users


@pytest.mark.parametrize("prior", [False, True])
def test_recommendations_are_the_ranking_of_the_evaluation(tmp_path: Path, prior: bool) -> None:
    data, split = planted()
    space = command.create(tmp_path / "space", {"text": 12, "image": 8}, 32, event_weights={"like": 1.0})
    embedded = embed_items(AlignRuntime(space, device="cpu", dtype="float32", threads=1), data)
    if prior:
        embedded.priors_I[:] = torch.linspace(-0.5, 0.5, data.num_items)
    questions = warm_questions(split, "test")
    scores_QC = space_score(space, embedded)(questions)
    rows, seen = questions.seen_pairs()
    scores_QC[torch.from_numpy(rows), torch.from_numpy(seen)] = -torch.inf

    common = {"space_id": space.space_id, "event_time_ms": 1, "produced_at_ms": 2}
    items = [
        ItemVector(
            item_id=data.item_ids[item], revision=1, modalities=("text",), prior=embedded.priors_I[item].item(),
            vector=Tensor.from_numpy(embedded.vectors_ID[item].numpy(), "f4"), **common,
        )
        for item in np.random.default_rng(0).permutation(data.num_items).tolist()
    ]  # fmt: skip
    padded = questions.histories(space.spec.user.last)
    pooled_QD, _ = build_user_model(space.spec, space.weights)(
        embedded.vectors_ID, Histories(*(torch.from_numpy(each) for each in padded))
    )
    users = [
        UserVector(user_id=f"user-{row}", num_events=1, vector=Tensor.from_numpy(vector_D, "f4"), **common)
        for row, vector_D in enumerate(pooled_QD.numpy())
    ]

    published = collect_items(decode(ItemVector, encode(each)) for each in items)
    known = collect_users((decode(UserVector, encode(each)) for each in users), space.space_id, 32, LeftOut())
    activity = {f"user-{row}": Activity() for row in range(len(questions))}
    for row, item in zip(rows.tolist(), seen.tolist(), strict=True):
        activity[f"user-{row}"].items.add(data.item_ids[item])
    asked = [of_user(f"user-{row}", known, activity, published) for row in range(len(questions))]
    for row, found in enumerate(answer(asked, published, Search(count=10))):
        expected = scores_QC[row].sort(descending=True)
        assert [hit.score for hit in found.hits] == pytest.approx(expected.values[:10].tolist(), abs=1e-5)
        mine = {published.item_ids[hit.item]: hit.score for hit in found.hits}
        theirs = {data.item_ids[item]: scores_QC[row, item].item() for item in expected.indices[:10].tolist()}
        for item_id in mine.keys() ^ theirs.keys():  # equal but for rounding
            assert {**mine, **theirs}[item_id] == pytest.approx(found.hits[-1].score, abs=1e-5)
