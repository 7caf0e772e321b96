"""What published vectors are worth is told of the vectors that a reader had, and of no others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from schemas import ItemVector, Tensor, UserVector
from tests.acceptance.prequential import (
    Evaluator,
    K,
    PublishedUsers,
    ask_both,
    published_items,
    whole_histories,
)
from tests.unit.evaluate.planted import planted
from worker.align import AlignRuntime, Space, command
from worker.align.weights import build_user_model
from worker.data import split_by_time
from worker.evaluate.baselines import Popularity, known_before
from worker.evaluate.questions import DAY_MS, Questions, replay_questions
from worker.evaluate.spaces import embed_items

DATA, _ = planted()
SPLIT = split_by_time(DATA.events, *np.zeros((2, DATA.num_items), bool))
QUESTIONS = replay_questions(SPLIT, 1.0)
COMMAND = split_by_time(DATA.events, np.zeros(DATA.num_items, bool), np.arange(DATA.num_items) % 3 == 0)
DIM = 32


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> Evaluator:
    encoders = {name: each.encoder for name, each in DATA.features.items()}
    path = tmp_path_factory.mktemp("spaces") / "space"
    command.create(path, {"text": 12, "image": 8}, DIM, encoders=encoders, event_weights={"like": 1.0})
    space = Space.load(path)
    items = embed_items(AlignRuntime(space, device="cpu", dtype="float32", threads=1), DATA)
    return Evaluator(build_user_model(space.spec, space.weights), 50, items)


def message(user: int, at_ms: int, vector_D: np.ndarray) -> UserVector:
    vector = Tensor.from_numpy(vector_D, "f4")
    return UserVector(
        user_id=DATA.user_ids[user], event_time_ms=at_ms, num_events=1, space_id="s", vector=vector, produced_at_ms=0
    )


def after_each_event(evaluator: Evaluator, line_rows: Sequence[int]) -> list[UserVector]:
    """What the worker publishes after these events of the line."""
    line = QUESTIONS.line
    rows = np.array(line_rows)
    first = np.searchsorted(line.users_E, line.users_E[rows])
    asked = QUESTIONS.where(np.zeros(len(rows), np.int64))
    vectors_QD = evaluator.vectors(
        Questions(line, first, rows + 1, rows + 1, line.users_E[rows], asked.candidates_C, asked.relevant_P,
                  asked.starts)
    ).numpy()  # fmt: skip
    return [
        message(int(line.users_E[row]), int(line.times_ms_E[row]), vector_D)
        for row, vector_D in zip(rows, vectors_QD, strict=True)
    ]


def test_an_event_is_answered_by_the_newest_vector_of_before_it_and_a_day_by_that_of_before_the_day() -> None:
    line = QUESTIONS.line
    numbers = {(int(user), int(at)): n for n, (user, at) in enumerate(zip(line.users_E, line.times_ms_E, strict=True))}
    log = [message(user, at, np.full(DIM, n + 1, np.float32)) for (user, at), n in numbers.items()]
    published = PublishedUsers(log, DATA, line, DIM)
    for every_ms in (None, DAY_MS):
        questions = replay_questions(SPLIT, 1.0, every_ms)
        found_Q = published.vectors(questions)[:, 0].long().tolist()
        for user, asked_row, found in zip(questions.users_Q, questions.seen_end_Q, found_Q, strict=True):
            at = int(line.times_ms_E[asked_row])
            before = at if every_ms is None else at - at % DAY_MS
            known = [n + 1 for (each, time_ms), n in numbers.items() if each == user and time_ms < before]
            assert found == max(known, default=0)


def test_vectors_like_the_evaluators_have_its_ranks(evaluator: Evaluator) -> None:
    line = QUESTIONS.line
    published = PublishedUsers(after_each_event(evaluator, range(len(line))), DATA, line, DIM)
    assert evaluator.off_by(published, QUESTIONS).max() < 1e-6
    assert evaluator.off_by(published, whole_histories(QUESTIONS)).max() < 1e-6
    by_popularity = Popularity().fit(known_before(DATA, SPLIT, "test"), 0, {})
    answers = ask_both(SPLIT, published, evaluator.items, evaluator, by_popularity, 0.2, COMMAND)
    for way in ("fresh", "daily"):
        assert answers.published[way].ranks_P.tolist() == answers.evaluated[way].ranks_P.tolist()
    everything = np.arange(len(QUESTIONS))
    gain = answers.published["fresh"].recall(K).mean() - answers.published["daily"].recall(K).mean()
    assert answers.gain(everything).recall.mean == pytest.approx(gain)
    assert answers.figure("fresh", answers.newest_Q).recall.count == round(0.2 * len(QUESTIONS))
    assert len(answers.warm_Q) == COMMAND.warm_I[SPLIT.events.items_E].sum()
    asked, ranking = answers.asked_by_command["fresh"]
    assert COMMAND.warm_I[asked.line.items_E].all()
    assert len(ranking.ranks_P) == len(asked) == round(0.2 * len(answers.warm_Q))
    assert len(answers.lines()) == 1 + 4 * 6 + 3


def test_an_event_whose_vector_was_left_out_is_answered_by_an_older_one_and_seen(evaluator: Evaluator) -> None:
    line = QUESTIONS.line
    users, counts = np.unique(line.users_E, return_counts=True)
    user = users[counts.argmax()]
    left_out = int(np.flatnonzero(line.users_E == user)[2])
    rows = [row for row in range(len(line)) if row != left_out]
    published = PublishedUsers(after_each_event(evaluator, rows), DATA, line, DIM)
    behind = np.flatnonzero(evaluator.off_by(published, QUESTIONS) > 1e-6)
    assert behind.tolist() == np.flatnonzero(QUESTIONS.end_Q - 1 == left_out).tolist() != []


def test_a_user_without_a_vector_has_zeros(evaluator: Evaluator) -> None:
    published = PublishedUsers([], DATA, QUESTIONS.line, DIM)
    assert not published.vectors(QUESTIONS).any()


def test_items_are_in_the_order_of_the_dataset_and_may_be_missing() -> None:
    vector = Tensor.from_numpy(np.eye(DIM, dtype=np.float32)[3], "f2")
    one = ItemVector(
        item_id=DATA.item_ids[5], revision=1, event_time_ms=0, space_id="s", vector=vector, modalities=("text",),
        prior=0.5, produced_at_ms=0,
    )  # fmt: skip
    items = published_items({one.item_id: one}, DATA, DIM)
    assert np.flatnonzero(items.usable_I).tolist() == [5]
    assert (items.vectors_ID[5].argmax().item(), items.priors_I[5].item()) == (3, 0.5)
    assert not items.vectors_ID[4].any()
