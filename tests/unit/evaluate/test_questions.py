"""Which events a model sees, which items it has to rank, and what it is asked for."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.evaluate.histories import DAY_MS, events, split_of
from worker.evaluate.questions import ask, cold_questions, replay_questions, train_questions, warm_questions

# Items 7 and 8 are withheld (validation, test). User 0 has five warm events, user 1 two, user 2 likes new items only.
EVENTS = events(
    (0, 0, 1.0),
    (0, 1, 1.5),
    (0, 2, 1.5),
    (0, 8, 1.7),
    (0, 3, 2.5),
    (0, 4, 4.0),
    (1, 4, 0.0),
    (1, 7, 0.1),
    (1, 5, 9.0),
    (2, 8, 3.0),
    (2, 7, 3.0),
)
SPLIT = split_of(9, EVENTS, {7}, {8})


def histories(questions: Any) -> Any:
    rows, items = questions.history_pairs()
    return [items[rows == row].tolist() for row in range(len(questions))]


def relevant(questions: Any) -> Any:
    items = questions.candidates_C[questions.relevant_P]
    return [items[first:last].tolist() for first, last in zip(questions.starts, questions.starts[1:], strict=False)]


def test_warm_asks_for_the_last_event_given_everything_before() -> None:
    test, val = warm_questions(SPLIT, "test"), warm_questions(SPLIT, "val")
    assert (histories(test), relevant(test)) == ([[0, 1, 2, 3]], [[4]])
    assert (histories(val), relevant(val)) == ([[0, 1, 2]], [[3]])
    assert test.candidates_C.tolist() == list(range(9))


def test_training_asks_for_every_event_to_learn_from() -> None:
    train = train_questions(SPLIT)
    asked = [
        (user, *wanted, history)
        for user, wanted, history in zip(train.users_Q, relevant(train), histories(train), strict=True)
    ]
    assert asked == [(1, 4, []), (0, 0, []), (0, 1, [0]), (0, 2, [0, 1]), (1, 5, [4])]


def test_cold_asks_for_withheld_items_among_themselves_and_hides_what_is_asked_warm() -> None:
    test = cold_questions(SPLIT, "test")
    assert test.users_Q.tolist() == [0, 2]
    assert histories(test) == [[0, 1, 2, 3], []]
    assert relevant(test) == [[8], [8]]
    assert test.candidates_C.tolist() == [8]
    val = cold_questions(SPLIT, "val")
    assert (val.users_Q.tolist(), histories(val), val.candidates_C.tolist()) == ([1, 2], [[4, 5], []], [7])


def test_cold_on_the_whole_catalogue_asks_the_same_among_all() -> None:
    test = cold_questions(SPLIT, "test", whole_catalogue=True)
    assert relevant(test) == [[8], [8]]
    assert test.candidates_C.tolist() == list(range(9))


def test_behind_shortens_the_history_but_not_what_has_been_seen() -> None:
    test = warm_questions(SPLIT, "test")
    assert histories(test.behind(3)) == [[0]]
    assert histories(test.behind(30)) == [[]]
    assert test.behind(30).seen_pairs()[1].tolist() == [0, 1, 2, 3]


def test_replay_knows_what_came_before_and_a_daily_job_what_came_before_today() -> None:
    fresh, daily = replay_questions(SPLIT, 1.0), replay_questions(SPLIT, 1.0, DAY_MS)
    of_user_0 = fresh.users_Q == 0
    assert [relevant(fresh)[row] for row in np.flatnonzero(of_user_0)] == [[0], [1], [2], [3], [4]]
    assert [histories(fresh)[row] for row in np.flatnonzero(of_user_0)] == [[], [0], [0], [0, 1, 2], [0, 1, 2, 3]]
    assert [histories(daily)[row] for row in np.flatnonzero(of_user_0)] == [[], [], [], [0, 1, 2], [0, 1, 2, 3]]
    assert (fresh.seen_end_Q == daily.seen_end_Q).all()
    assert (np.diff(fresh.line.times_ms_E[np.flatnonzero(fresh.line.users_E == 1)]) > 0).all()


def test_the_newest_events_are_replayed() -> None:
    newest = replay_questions(SPLIT, 0.3)
    assert relevant(newest) == [[4], [5]]
    assert histories(newest) == [[0, 1, 2, 3], [4]]


def test_no_history_reaches_what_it_is_asked_to_predict() -> None:
    for questions in (replay_questions(SPLIT, 1.0), warm_questions(SPLIT, "val"), warm_questions(SPLIT, "test")):
        for history, wanted in zip(histories(questions), relevant(questions), strict=True):
            assert not set(history) & set(wanted)


def test_padding_keeps_the_newest_at_the_end() -> None:
    padded = replay_questions(SPLIT, 1.0).where(np.array([0, 5])).histories(last=2)
    assert padded.items_QN.tolist() == [[-1, -1], [2, 3]]
    assert padded.weights_QN.tolist() == [[0.0, 0.0], [1.0, 1.0]]
    assert padded.times_ms_QN[1].tolist() == [1.5 * DAY_MS, 2.5 * DAY_MS]


def test_seen_items_leave_the_ranking() -> None:
    test = warm_questions(SPLIT, "test")
    by_number = ask(test, lambda some: -torch.arange(9.0).repeat(len(some), 1))
    assert by_number.ranks_P.tolist() == [0]  # 0 to 3 have been seen


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_the_chunk_changes_nothing(chunk: int) -> None:
    questions = replay_questions(SPLIT, 1.0)
    generator = np.random.default_rng(0)
    scores = torch.from_numpy(generator.standard_normal((len(questions), 9)))
    of = {(user, end): row for row, (user, end) in enumerate(zip(questions.users_Q, questions.seen_end_Q, strict=True))}

    def score(some: Any) -> Any:
        rows = [of[pair] for pair in zip(some.users_Q, some.seen_end_Q, strict=True)]
        return scores[rows]

    assert (ask(questions, score, chunk).ranks_P == ask(questions, score, 7).ranks_P).all()


def test_nobody_to_ask_is_no_error() -> None:
    nobody = warm_questions(split_of(9, events((0, 0, 1.0)), set(), set()), "test")
    assert len(ask(nobody, lambda some: torch.zeros(len(some), 9)).ranks_P) == 0


def test_no_answer_is_a_matrix_of_all_users_and_items(monkeypatch: pytest.MonkeyPatch) -> None:
    questions = replay_questions(SPLIT, 1.0)
    scores_I = torch.from_numpy(np.random.default_rng(1).standard_normal(9))
    sizes = []

    def score(some: Any) -> Any:
        sizes.append(len(some) * len(some.candidates_C))
        return scores_I.repeat(len(some), 1)

    at_once = ask(questions, score).ranks_P
    monkeypatch.setattr("worker.evaluate.questions.SCORES_AT_ONCE", 20)
    assert ask(questions, score).ranks_P.tolist() == at_once.tolist()
    assert max(sizes[1:]) == 18 < sizes[0]


def test_a_sample_of_questions_is_the_same_every_time_and_keeps_their_order() -> None:
    questions = replay_questions(SPLIT, 1.0)
    some, again = questions.sample(4), questions.sample(4)
    assert len(some) == 4
    assert relevant(some) == relevant(again)
    assert histories(some) == histories(again)
    places = [relevant(questions).index(each) for each in relevant(some)]
    assert places == sorted(places)
    assert len(questions.sample(100)) == len(questions)
