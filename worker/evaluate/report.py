"""What came out, as figures: means, their spread over seeds and their standard error over users. All of it is JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from worker.data.dataset import Bools
from worker.evaluate.cross_modal import ClosedForm
from worker.evaluate.evaluation import COMPARED, Alone, Model
from worker.evaluate.metrics import Estimate, Ranking, Values, difference, estimate
from worker.evaluate.questions import Questions
from worker.evaluate.retrieval import AMONG_FIRST, Retrieval

KS = (10, 20, 50)
MAIN_K = 20
MEASURES: Mapping[str, Callable[[Ranking, int], Values]] = {"recall": Ranking.recall, "ndcg": Ranking.ndcg}

Json = dict[str, Any]


def report(
    questions: Mapping[str, Questions],
    models: Sequence[Model],
    spaces: Mapping[str, Sequence[Alone]],
    maps: Sequence[ClosedForm] = (),
) -> Json:
    """`spaces` are the models that are spaces, by name, with what each seed was asked alone; `maps` are the baselines
    of finding one modality by another."""
    return {
        "verdict": {
            space.name: verdict(space, others, questions)
            for space in models
            if space.is_space and (others := [model for model in models if not model.is_space])
        },
        "questions": {kind: _asked(each) for kind, each in questions.items()},
        "lengths": {
            kind: {name: int(chosen_Q.sum()) for name, chosen_Q in _of_length(questions[kind]).items()}
            for kind in COMPARED
            if kind in questions
        },
        "models": {model.name: _model(model, questions) for model in models},
        "differences": {
            space.name: {other.name: _difference(space, other, questions) for other in models if not other.is_space}
            for space in models
            if space.is_space
        },
        "spaces": {name: _alone(of_seeds, questions) for name, of_seeds in spaces.items()},
        "closed_forms": [{"name": each.name, "penalty": each.penalty, **_retrieval([each.found])} for each in maps],
    }


LENGTHS: Mapping[str, tuple[int, float]] = {
    "0": (0, 0),
    "1": (1, 1),
    "2 to 4": (2, 4),
    "5 to 9": (5, 9),
    "10 to 19": (10, 19),
    "20 to 49": (20, 49),
    "50 and more": (50, np.inf),
}
"""Of histories, in events, from and to: where a method is good with few events and where with many."""
JUDGED_BY = f"ndcg@{MAIN_K}"
JUDGED_ON = ("warm", "cold")
SURE = 2.0
"""Standard errors from which on a difference is taken for one."""


def verdict(space: Model, baselines: Sequence[Model], questions: Mapping[str, Questions]) -> Json:
    """Whether a space is worth shipping: better than the best baseline in one kind of question, and in none worse.

    The best baseline of a kind is the one that does best in the very questions that are judged, so the verdict errs
    against the space.
    """
    name, k = JUDGED_BY.split("@")
    kinds = {}
    for kind in (each for each in JUDGED_ON if each in space.rankings):
        of_each = {model.name: _per_question(model.rankings[kind], name, int(k)) for model in baselines}
        best = max(of_each, key=lambda each: float(of_each[each].mean()))
        ours = _per_question(space.rankings[kind], name, int(k))
        gained = difference(ours, of_each[best], questions[kind].users_Q)
        kinds[kind] = {
            "baseline": best,
            **_estimate(gained),
            "better": bool(gained.mean > SURE * gained.standard_error),  # of one user there is no error: not better
            "worse": bool(gained.mean < -SURE * gained.standard_error),
        }
    better, worse = (any(of[which] for of in kinds.values()) for which in ("better", "worse"))
    return {"measure": JUDGED_BY, "ship": better and not worse, "kinds": kinds}


def space_figures(rankings: Mapping[str, Ranking]) -> dict[str, float]:
    """The figures of one space, flat: what `space.json` has room for."""
    return {
        f"test/{kind}/{name}@{k}": float(measure(ranking, k).mean())
        for kind, ranking in rankings.items()
        for name, measure in MEASURES.items()
        for k in KS
    }


def _asked(questions: Questions) -> Json:
    return {
        "questions": len(questions),
        "users": len(np.unique(questions.users_Q)),
        "candidates": len(questions.candidates_C),
    }


def _model(model: Model, questions: Mapping[str, Questions]) -> Json:
    return {
        "space": model.is_space,
        "seeds": len(model.settings),
        "chosen": list(model.settings),
        "seconds": round(model.seconds, 2),
        "cut": model.cut or None,
        **{kind: _figures(rankings, questions[kind]) for kind, rankings in model.rankings.items()},
        "by_length": {
            kind: {
                name: _figures(rankings, questions[kind], (MAIN_K,), chosen_Q)
                for name, chosen_Q in _of_length(questions[kind]).items()
            }
            for kind, rankings in model.rankings.items()
        },
    }


def _of_length(questions: Questions) -> dict[str, Bools]:
    """Which questions have a history of each length; lengths that none has are left out."""
    lengths_Q = questions.lengths_Q
    marks = {name: (lengths_Q >= least) & (lengths_Q <= most) for name, (least, most) in LENGTHS.items()}
    return {name: marks_Q for name, marks_Q in marks.items() if marks_Q.any()}


def _difference(space: Model, other: Model, questions: Mapping[str, Questions]) -> Json:
    """By how much the space is better, question by question, seeds averaged."""
    return {
        kind: {
            f"{name}@{MAIN_K}": _estimate(
                difference(
                    _per_question(space.rankings[kind], name, MAIN_K),
                    _per_question(other.rankings[kind], name, MAIN_K),
                    questions[kind].users_Q,
                )
            )
            for name in MEASURES
        }
        for kind in space.rankings
    }


def _alone(of_seeds: Sequence[Alone], questions: Mapping[str, Questions]) -> Json:
    return {
        "space_ids": [each.space_id for each in of_seeds],
        "refused": dict(of_seeds[0].refused),
        "ablations": {
            left: {
                kind: _figures([each.ablations[left][kind] for each in of_seeds], questions[kind], (MAIN_K,))
                for kind in kinds
            }
            for left, kinds in of_seeds[0].ablations.items()
        },
        "freshness": {
            str(lag): _figures([each.freshness[lag] for each in of_seeds], questions["fresh"], (MAIN_K,))
            for lag in of_seeds[0].freshness
        },
        "retrieval": [
            _retrieval([each.retrievals[number] for each in of_seeds]) for number in range(len(of_seeds[0].retrievals))
        ],
        "replay": _replay(of_seeds, questions) if of_seeds[0].replay else {},
    }


def _replay(of_seeds: Sequence[Alone], questions: Mapping[str, Questions]) -> Json:
    """Both ways, over all events and over those of users that a daily job had met; and what streaming gains."""
    known_Q = questions["daily"].lengths_Q > 0
    rankings = {kind: [each.replay[kind] for each in of_seeds] for kind in ("streaming", "daily")}
    result: Json = {"known_to_daily": float(known_Q.mean())}
    for of, chosen_Q in (("all", np.ones_like(known_Q)), ("known_to_daily_only", known_Q)):
        if not chosen_Q.any():
            continue
        users_Q = questions["streaming"].users_Q[chosen_Q]
        values = {
            kind: {name: _per_question(each, name, MAIN_K)[chosen_Q] for name in MEASURES}
            for kind, each in rankings.items()
        }
        result[of] = {
            "streaming": _figures(rankings["streaming"], questions["streaming"], (MAIN_K,), chosen_Q),
            "daily": _figures(rankings["daily"], questions["daily"], (MAIN_K,), chosen_Q),
            "difference": {
                f"{name}@{MAIN_K}": _estimate(difference(values["streaming"][name], values["daily"][name], users_Q))
                for name in MEASURES
            },
        }
    return result


def _retrieval(of_seeds: Sequence[Retrieval]) -> Json:
    return {
        "query": of_seeds[0].query,
        "answer": of_seeds[0].answer,
        "items": of_seeds[0].num_items,
        **{f"recall@{k}": _over_seeds([each.recall(k) for each in of_seeds]) for k in AMONG_FIRST},
        **{f"chance@{k}": of_seeds[0].chance(k) for k in AMONG_FIRST},
        "median_rank": _over_seeds([each.median_rank for each in of_seeds]),
    }


def _figures(
    rankings: Sequence[Ranking], questions: Questions, ks: Sequence[int] = KS, chosen_Q: Bools | None = None
) -> Json:
    """Every measure at every length of list, over all questions or those chosen."""
    chosen_Q = np.ones(len(questions), bool) if chosen_Q is None else chosen_Q
    figures = {}
    for name, measure in MEASURES.items():
        for k in ks:
            over_users = estimate(_per_question(rankings, name, k)[chosen_Q], questions.users_Q[chosen_Q])
            over_seeds = _over_seeds([float(measure(each, k)[chosen_Q].mean()) for each in rankings])
            figures[f"{name}@{k}"] = {**over_seeds, "standard_error": _estimate(over_users)["standard_error"]}
    return figures


def _per_question(rankings: Sequence[Ranking], name: str, k: int) -> Values:
    """`[Q]`, seeds averaged."""
    values: Values = np.mean([MEASURES[name](ranking, k) for ranking in rankings], axis=0)
    return values


def _over_seeds(values: Sequence[float]) -> Json:
    """Mean and standard deviation; of one seed there is no deviation."""
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def _estimate(result: Estimate) -> Json:
    error = None if np.isnan(result.standard_error) else result.standard_error
    return {"mean": result.mean, "standard_error": error}


# ---------------------------------------------------------------------- for a person to read

KIND_TITLES = {
    "warm": "next item among all, users who are known",
    "cold": "new items among themselves",
    "cold_among_all": "new items among all",
}


SHOWN_BY_LENGTH = ("warm", "cold")


def as_text(document: Json) -> str:
    """Tables for a terminal."""
    parts = [_verdict_text(name, of, document) for name, of in document["verdict"].items()]
    if cut := [f"  {name}: {model['cut']}" for name, model in document["models"].items() if model["cut"]]:
        parts.append("\n".join(["may be better than shown here; --baseline-seconds gives them more time:", *cut]))
    parts += [
        _models_text(kind, title, document) for kind, title in KIND_TITLES.items() if kind in document["questions"]
    ]
    parts += [
        _lengths_text(kind, title, document)
        for kind, title in KIND_TITLES.items()
        if kind in SHOWN_BY_LENGTH and kind in document["lengths"]
    ]
    parts += [_differences_text(name, others) for name, others in document["differences"].items() if others]
    parts += [text for name, each in document["spaces"].items() for text in _alone_text(name, each, document)]
    if document["closed_forms"]:
        named = [(f", {each['name']}", each) for each in document["closed_forms"]]
        heading = "baselines of the same: maps between two modalities in closed form"
        parts.append(f"{heading}\n{_retrieval_table(named)}")
    return "\n\n".join(parts)


def _verdict_text(name: str, of: Json, document: Json) -> str:
    lines = []
    for kind, each in of["kinds"].items():
        word = "better than" if each["better"] else "worse than" if each["worse"] else "not better than"
        lines.append(f"{KIND_TITLES[kind]}: {word} {each['baseline']}, by {_signed(each)} {of['measure']}")
    lines.append("ship" if of["ship"] else "do not ship")
    return "\n".join([f"verdict on {name}", *(f"  {line}" for line in lines)])


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be; the first is text, the others are figures."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(cell.ljust(width) if number == 0 else cell.rjust(width) for number, (cell, width) in enumerate(
            zip(line, widths, strict=True)
        )).rstrip()
        for line in lines
    )  # fmt: skip


def _models_text(kind: str, title: str, document: Json) -> str:
    asked = document["questions"][kind]
    names = [f"{name}@{k}" for name in MEASURES for k in KS]
    rows = [
        [name, *(_cell(model[kind][each]) for each in names), str(model["seeds"])]
        for name, model in document["models"].items()
    ]
    heading = f"{title} ({asked['questions']} questions, {asked['candidates']} candidates; ± standard error over users)"
    return f"{heading}\n{table(['', *names, 'seeds'], rows)}"


def _lengths_text(kind: str, title: str, document: Json) -> str:
    measure, counts = f"recall@{MAIN_K}", document["lengths"][kind]
    rows = [["questions", *map(str, counts.values())]]
    rows += [
        [name, *(_cell(model["by_length"][kind][length][measure]) for length in counts)]
        for name, model in document["models"].items()
    ]
    heading = f"{title}: {measure} by the number of events in the history (± standard error over users)"
    return f"{heading}\n{table(['', *counts], rows)}"


def _differences_text(name: str, others: Json) -> str:
    columns = [(kind, f"{measure}@{MAIN_K}") for kind in next(iter(others.values())) for measure in MEASURES]
    rows = [
        [f"- {other}", *(_signed(by_kind[kind][measure]) for kind, measure in columns)]
        for other, by_kind in others.items()
    ]
    header = ["", *(f"{kind} {measure}" for kind, measure in columns)]
    return f"{name}: difference, question by question (± standard error)\n{table(header, rows)}"


def _alone_text(name: str, alone: Json, document: Json) -> list[str]:
    parts = []
    recall, ndcg = f"recall@{MAIN_K}", f"ndcg@{MAIN_K}"
    if alone["ablations"]:
        kinds = list(next(iter(alone["ablations"].values())))
        everything = {"everything": {kind: document["models"][name][kind] for kind in kinds}}
        rows = [
            [left, *(_cell(of[kind][measure]) for kind in kinds for measure in (recall, ndcg))]
            for left, of in {**everything, **alone["ablations"]}.items()
        ]
        header = ["", *(f"{kind} {measure}" for kind in kinds for measure in (recall, ndcg))]
        parts.append(f"{name}: modalities left out\n{table(header, rows)}")
    if alone["freshness"]:
        rows = [[lag, _cell(each[recall]), _cell(each[ndcg])] for lag, each in alone["freshness"].items()]
        asked = document["questions"]["fresh"]["questions"]
        parts.append(
            f"{name}: user vectors that lack the newest events ({asked} users)\n"
            f"{table(['events behind', recall, ndcg], rows)}"
        )
    if alone["retrieval"]:
        heading = f"{name}: withheld items found by another of their modalities"
        parts.append(f"{heading}\n{_retrieval_table([('', each) for each in alone['retrieval']])}")
    if alone["replay"]:
        parts.append(f"{name}: replay in event time, {_replay_text(alone['replay'], recall, ndcg)}")
    return parts


def _retrieval_table(named: Sequence[tuple[str, Json]]) -> str:
    ks = [f"recall@{k}" for k in AMONG_FIRST]
    rows = [
        [f"{each['query']} -> {each['answer']}{name}", str(each["items"]), *(_plain(each[k]) for k in ks),
         f"{each['chance@10']:.4f}", f"{each['median_rank']['mean']:.0f}"]
        for name, each in named
    ]  # fmt: skip
    return table(["", "items", *ks, "chance@10", "median rank"], rows)


def _replay_text(replay: Json, recall: str, ndcg: str) -> str:
    titles = {"all": "all events", "known_to_daily_only": "of users met before today"}
    rows = [
        [f"{titles[of]}, {kind}", _cell(replay[of][kind][recall]), _cell(replay[of][kind][ndcg])]
        for of in titles
        if of in replay
        for kind in ("streaming", "daily")
    ]
    share = f"a daily job had met the users of {replay['known_to_daily']:.0%} of the events"
    return f"{share}\n{table(['', recall, ndcg], rows)}"


def _cell(each: Json) -> str:
    error = each["standard_error"]
    return f"{each['mean']:.4f}" + (f" ±{error:.4f}" if error is not None else "")


def _plain(each: Json) -> str:
    return f"{each['mean']:.4f}"


def _signed(each: Json) -> str:
    error = each["standard_error"]
    return f"{each['mean']:+.4f}" + (f" ±{error:.4f}" if error is not None else "")
