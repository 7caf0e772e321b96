"""Questions that somebody gives: what is asked, of whom, and what may be in the answer."""

from typing import Any

import pytest
import torch

from tests.unit.evaluate.planted import planted
from worker.data.question_file import Question
from worker.errors import DataError
from worker.evaluate.baselines import BprMf, Ease, LightGcn, known_before
from worker.evaluate.given import given_questions
from worker.evaluate.questions import ask

DATA, SPLIT = planted()
GIVEN = [
    Question("user-3", ("item-4", "item-2", "item-4"), ("item-4",)),
    Question("nobody", (), ("item-7", "item-1", "elsewhere")),
    Question("nobody", ("elsewhere", "item-5"), ("item-6",)),
    Question("user-3", ("item-1",), ("elsewhere",)),
]


def test_histories_and_answers_are_those_given_and_what_the_catalogue_lacks_is_left_out() -> None:
    questions, num_left_out = given_questions(GIVEN, DATA, rank_seen=True)
    rows, items = questions.history_pairs()
    assert [items[rows == row].tolist() for row in range(3)] == [[4, 2, 4], [], [5]]
    assert questions.relevant_P.tolist() == [4, 1, 7, 6]
    assert questions.starts.tolist() == [0, 1, 3, 4]
    assert num_left_out == 1
    assert questions.users_Q.tolist() == [3, DATA.num_users, DATA.num_users]
    assert questions.histories(last=2).items_QN.tolist() == [[2, 4], [-1, -1], [-1, 5]]


def test_what_the_history_has_is_ranked_if_it_is_said() -> None:
    ranked, hidden = (given_questions(GIVEN[1:3], DATA, rank_seen=each)[0] for each in (True, False))

    def by_number(some: Any) -> torch.Tensor:
        return -torch.arange(float(DATA.num_items)).repeat(len(some), 1)

    assert ask(ranked, by_number).ranks_P.tolist() == [1, 7, 6]
    assert ask(hidden, by_number).ranks_P.tolist() == [1, 7, 5]


@pytest.mark.parametrize("method", [BprMf(), LightGcn()])
def test_users_whom_nobody_has_met_are_no_number_of_another(method: Any) -> None:
    questions, _ = given_questions(GIVEN, DATA, rank_seen=True)
    score = method.fit(known_before(DATA, SPLIT, "test"), 0, {"epochs": 1, "decay": 0.0})
    scores_QC = score(questions)
    assert torch.equal(scores_QC[1], scores_QC[2])
    assert not torch.equal(scores_QC[0], scores_QC[1])


def test_questions_without_any_answer_in_the_catalogue_are_an_error() -> None:
    with pytest.raises(DataError, match="--questions"):
        given_questions(GIVEN[3:], DATA, rank_seen=True)


def test_a_history_counts_whatever_the_events_say_of_its_user() -> None:
    score = Ease().fit(known_before(DATA, SPLIT, "test"), 0, {"penalty": 1.0})
    one, other = (
        given_questions([Question(user, ("item-4", "item-2"), ("item-1",))], DATA, rank_seen=True)[0]
        for user in ("user-3", "nobody")
    )
    assert torch.equal(score(one), score(other))
    assert score(one)[0].max().isfinite()
