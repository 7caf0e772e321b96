"""The report: what is asked, what is averaged over what, and that its parts agree."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.evaluate.planted import planted
from worker.align import command
from worker.data import split_by_time
from worker.evaluate.baselines import BprMf, ContentMean, Popularity, known_before
from worker.evaluate.evaluation import BEHIND, Model, all_questions, judge_baseline, judge_space
from worker.evaluate.metrics import Ranking
from worker.evaluate.plots import draw
from worker.evaluate.questions import ask
from worker.evaluate.report import KS, LENGTHS, as_text, report, space_figures, table, verdict

DATA, SPLIT = planted()
QUESTIONS = all_questions(SPLIT, 0.9)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    spaces = [
        command.create(
            tmp_path_factory.mktemp("spaces") / "space",
            {"text": 12, "image": 8},
            32,
            seed=seed,
            event_weights={"like": 1},
        )
        for seed in (0, 1)
    ]
    return [judge_space(space, DATA, SPLIT, QUESTIONS, device="cpu") for space in spaces]


@pytest.fixture(scope="module")
def document(answers: Any) -> Any:
    rankings = {kind: [each.rankings[kind] for each in answers] for kind in answers[0].rankings}
    ours = Model("ours", True, [{}, {}], rankings, 1.0)
    content = judge_baseline(ContentMean(["text"]), DATA, SPLIT, [0, 1], QUESTIONS)
    return report(QUESTIONS, [content, ours], {"ours": [each.alone for each in answers]})


def test_a_method_without_a_seed_is_asked_once_and_others_once_for_each() -> None:
    assert len(judge_baseline(Popularity(), DATA, SPLIT, [0, 1, 2], QUESTIONS).settings) == 1
    assert len(judge_baseline(BprMf(), DATA, SPLIT, [0, 1], QUESTIONS).rankings["warm"]) == 2


def test_each_modality_is_left_out_and_left_alone(answers: Any) -> None:
    assert set(answers[0].alone.ablations) == {"without image", "without text", "image only", "text only"}
    one, other = answers[0].alone.ablations["without image"], answers[0].alone.ablations["text only"]
    assert (one["cold"].ranks_P == other["cold"].ranks_P).all()  # of two modalities that is the same


def test_streaming_knows_what_the_day_has_brought(answers: Any, document: Any) -> None:
    replay = document["spaces"]["ours"]["replay"]
    for of in ("all", "known_to_daily_only"):
        gain = replay[of]["streaming"]["recall@20"]["mean"] - replay[of]["daily"]["recall@20"]["mean"]
        assert gain == pytest.approx(replay[of]["difference"]["recall@20"]["mean"])
    assert 0 < replay["known_to_daily"] < 1


def test_users_nobody_knows_are_shown_what_is_popular(answers: Any) -> None:
    """Streaming and daily differ only where the day has brought something."""
    streaming, daily = QUESTIONS["streaming"], QUESTIONS["daily"]
    same_Q = streaming.lengths_Q == daily.lengths_Q
    ranks = answers[0].alone.replay
    assert (ranks["streaming"].ranks_P[same_Q] == ranks["daily"].ranks_P[same_Q]).all()
    new = np.flatnonzero(daily.lengths_Q == 0)
    popular = ask(daily.where(new), Popularity().fit(known_before(DATA, SPLIT, "test"), 0, {}))
    assert len(new)
    assert (ranks["daily"].ranks_P[new] == popular.ranks_P).all()


def test_freshness_asks_the_same_users_at_every_lag() -> None:
    assert "fresh" not in QUESTIONS  # nobody has more events than the longest lag
    assert max(BEHIND) == 30


def test_without_withheld_items_nothing_is_asked_about_them() -> None:
    nothing = np.zeros(DATA.num_items, bool)
    questions = all_questions(split_by_time(DATA.events, nothing, nothing), 0.0)
    assert set(questions) == {"warm"}


def test_seeds_are_averaged_and_their_deviation_shown(answers: Any, document: Any) -> None:
    of_seeds = [each.rankings["cold"].ndcg(20).mean() for each in answers]
    shown = document["models"]["ours"]["cold"]["ndcg@20"]
    assert (shown["mean"], shown["sd"]) == (pytest.approx(np.mean(of_seeds)), pytest.approx(np.std(of_seeds, ddof=1)))
    assert document["models"]["content mean, text"]["cold"]["ndcg@20"]["sd"] is None


def test_figures_by_length_are_those_of_the_questions_with_as_long_a_history(document: Any) -> None:
    counts = document["lengths"]["warm"]
    assert sum(counts.values()) == len(QUESTIONS["warm"])
    lengths_Q = QUESTIONS["warm"].lengths_Q
    assert counts == {
        name: int(((lengths_Q >= least) & (lengths_Q <= most)).sum())
        for name, (least, most) in LENGTHS.items()
        if ((lengths_Q >= least) & (lengths_Q <= most)).any()
    }
    model = document["models"]["ours"]
    shares = [count * model["by_length"]["warm"][name]["ndcg@20"]["mean"] for name, count in counts.items()]
    assert sum(shares) / len(lengths_Q) == pytest.approx(model["warm"]["ndcg@20"]["mean"])
    assert "by the number of events in the history" in as_text(document)


def test_who_has_no_history_is_shown_what_is_popular_by_every_baseline() -> None:
    asked = {"warm": QUESTIONS["warm"].behind(99)}
    content, popular = (judge_baseline(each, DATA, SPLIT, [0], asked) for each in (ContentMean(["text"]), Popularity()))
    assert (content.rankings["warm"][0].ranks_P == popular.rankings["warm"][0].ranks_P).all()


def test_differences_are_those_of_the_means(document: Any) -> None:
    of = document["differences"]["ours"]["content mean, text"]["warm"]["recall@20"]
    ours, content = (document["models"][name]["warm"]["recall@20"]["mean"] for name in ("ours", "content mean, text"))
    assert of["mean"] == pytest.approx(ours - content)


def test_the_report_is_json_and_reads_as_tables(document: Any) -> None:
    assert json.loads(json.dumps(document, allow_nan=False)) == json.loads(json.dumps(document))
    text = as_text(document)
    for part in (
        "new items among themselves",
        "modalities left out",
        "text -> image",
        "replay",
        "question by question",
    ):
        assert part in text


def test_a_space_s_own_figures_are_flat(answers: Any) -> None:
    figures = space_figures(answers[0].rankings)
    assert set(figures) == {
        f"test/{kind}/{name}@{k}" for kind in answers[0].rankings for name in ("recall", "ndcg") for k in KS
    }


def test_a_table_lines_up() -> None:
    assert table(["", "n"], [["a", "1"], ["bcd", "10"]]) == "      n\n---  --\na     1\nbcd  10"


def test_pictures_are_drawn(document: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    drawn = draw(document, tmp_path / "plots")
    assert [path.name for path in drawn] == ["models.png", "space-0.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


def test_without_matplotlib_nothing_is_drawn(document: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert draw(document, tmp_path / "plots") is None
    assert not (tmp_path / "plots").exists()


def test_questions_and_rankings_agree_in_number(answers: Any) -> None:
    for kind, ranking in answers[0].rankings.items():
        assert len(ranking.starts) == len(QUESTIONS[kind]) + 1


def made_up(name: Any, is_space: Any, **ranks_by_kind: Any) -> Any:
    """A model whose relevant item of each question came at the given place."""
    rankings = {kind: [Ranking(np.array(ranks), np.arange(len(ranks) + 1))] for kind, ranks in ranks_by_kind.items()}
    return Model(name, is_space, [{}], rankings, 0.0)


def judged(ours: Any, others: Any) -> Any:
    """The verdict on a space whose places are `ours`, by kind, beside baselines of which each has its own."""
    count = len(next(iter(ours.values())))
    some = QUESTIONS["warm"].where(np.arange(count))
    baselines = [made_up(f"baseline {number}", False, **each) for number, each in enumerate(others)]
    return verdict(made_up("ours", True, **ours), baselines, dict.fromkeys(ours, some))


GOOD, MIDDLING, BAD = [0] * 30, [0, 1, 2] * 10, [30, 1, 9] * 10


@pytest.mark.parametrize(
    ("ours", "baseline", "ship", "better", "worse"),
    [
        ({"warm": GOOD, "cold": GOOD}, {"warm": BAD, "cold": MIDDLING}, True, True, False),
        ({"warm": GOOD, "cold": MIDDLING}, {"warm": BAD, "cold": MIDDLING}, True, True, False),
        ({"warm": GOOD, "cold": BAD}, {"warm": BAD, "cold": GOOD}, False, True, False),
        ({"warm": MIDDLING}, {"warm": MIDDLING}, False, False, False),
        ({"warm": BAD}, {"warm": GOOD}, False, False, True),
        ({"cold": GOOD}, {"cold": BAD}, True, None, None),
    ],
    ids=["better in both", "better in one", "better in one, worse in the other", "the same", "worse", "cold alone"],
)
def test_a_space_is_worth_shipping_if_it_is_better_somewhere_and_worse_nowhere(
    ours: dict[str, Any], baseline: dict[str, Any], ship: bool, better: bool | None, worse: bool | None
) -> None:
    result = judged(ours, [baseline])
    assert result["ship"] is ship
    if better is not None:
        assert (result["kinds"]["warm"]["better"], result["kinds"]["warm"]["worse"]) == (better, worse)


def test_a_space_is_compared_with_the_baseline_that_is_best_at_the_same_questions() -> None:
    result = judged(
        {"warm": MIDDLING, "cold": MIDDLING}, [{"warm": GOOD, "cold": BAD}, {"warm": BAD, "cold": MIDDLING}]
    )
    assert {kind: each["baseline"] for kind, each in result["kinds"].items()} == {
        "warm": "baseline 0",
        "cold": "baseline 1",
    }


def test_of_a_single_user_nothing_is_sure() -> None:
    result = judged({"warm": [0]}, [{"warm": [19]}])
    assert result["ship"] is False
    assert result["kinds"]["warm"]["standard_error"] is None


def test_the_verdict_comes_first_and_then_what_was_cut_short(answers: Any) -> None:
    rankings = {kind: [answers[0].rankings[kind]] for kind in answers[0].rankings}
    ours = Model("ours", True, [{}], rankings, 1.0)
    cut = judge_baseline(BprMf(), DATA, SPLIT, [0], QUESTIONS, within_s=0.0)
    made = report(QUESTIONS, [cut, ours], {"ours": [answers[0].alone]})
    first, second, *_ = as_text(made).split("\n\n")
    lines = first.splitlines()
    assert lines[0] == "verdict on ours"
    assert lines[1].startswith("  next item among all, users who are known: ")
    assert "BPR-MF, by " in lines[1]
    assert "±" in lines[1]
    assert lines[-1] in ("  ship", "  do not ship")
    assert second.splitlines() == [
        "may be better than shown here; --baseline-seconds gives them more time:",
        "  BPR-MF: chosen among the first 1 candidates, for want of time",
    ]
    assert made["models"]["BPR-MF"]["cut"]
    assert made["models"]["ours"]["cut"] is None
