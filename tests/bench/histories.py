"""What the recipe is worth where histories are short and where they are long, on generated worlds.

    python -m tests.bench.histories                 # both worlds, three seeds each, a minute per space on one core
    python -m tests.bench.histories --worlds short --seeds 1

Both worlds have a catalogue of two modalities that all items have, image and sound, each of which shows a part of what
an item is like; a tenth of the items are withheld to choose by and a tenth to judge by.

    short    ninety-nine users of a hundred have one to three events; the rest take at random and hold two thirds of all
    long     every user has twenty to a hundred events, and a taste that lasts

    U users   I items   L latent dimensions   K elements of a feature
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from tests.bench.host import host_line
from worker.align import AlignRuntime
from worker.data import Dataset, Features, Interactions, Split, split_by_time
from worker.data.dataset import fingerprint_of
from worker.evaluate.baselines import Baseline, ContentMean, Ease, ItemKnn, known_before
from worker.evaluate.questions import ask, cold_questions, warm_questions
from worker.evaluate.spaces import embed_items, space_score
from worker.train.run import train
from worker.train.settings import TrainSettings
from worker.train.trainer import EpochReport

World = Literal["short", "long"]
LATENT_DIM = 16
THEMES = 40
OWN_PART = 0.5
"""Length of an item's own part, relative to its theme's."""
CONTENT_DIM = 48
NOISE = 1.2
"""Length of the noise in a feature, relative to a latent vector's."""
SHARPNESS = 12.0
"""Times cosine: how decided users are."""
POPULARITY_SIGMA = 0.7
START_MS, DAY_MS = 1_700_000_000_000, 86_400_000


@dataclass(frozen=True, slots=True)
class Size:
    """How large a world is."""

    items: int = 1_200
    users: int = 2_000
    busy_share: float = 0.011
    """Of the users of the short world."""
    busy_events: int = 340


def world(kind: World, seed: int = 0, size: Size = Size()) -> Dataset:
    """A catalogue and what its users did. The seed decides all of it."""
    random = np.random.default_rng([seed, kind == "long"])
    themes_TL = _unit(random.standard_normal((THEMES, LATENT_DIM)))
    theme_I = random.integers(THEMES, size=size.items)
    latent_IL = _unit(themes_TL[theme_I] + OWN_PART * _unit(random.standard_normal((size.items, LATENT_DIM))))
    appeal_I = POPULARITY_SIGMA * random.standard_normal(size.items)
    features = {
        "image": _features(random, latent_IL, np.arange(LATENT_DIM) % 3 != 0),
        "sound": _features(random, latent_IL, np.arange(LATENT_DIM) % 3 == 1),
    }
    rows = _short(random, latent_IL, appeal_I, size) if kind == "short" else _long(random, latent_IL, appeal_I, size)
    users_E, items_E = np.array(rows).T
    order = random.permutation(len(users_E)) if kind == "short" else np.arange(len(users_E))
    users_E, items_E = users_E[order], items_E[order]
    times_ms_E = START_MS + np.arange(len(users_E)) * (30 * DAY_MS // len(users_E))
    events = Interactions(users_E, items_E, times_ms_E, np.ones(len(users_E), np.float32))
    item_ids = [f"item-{number:05d}" for number in range(size.items)]
    user_ids = [f"user-{number:05d}" for number in range(size.users)]
    neighbors: list[tuple[int, ...]] = [()] * size.items
    return Dataset(
        item_ids, user_ids, features, events, neighbors,
        fingerprint_of(item_ids, user_ids, features, events, neighbors),
    )  # fmt: skip


def split_of(dataset: Dataset) -> Split:
    """The split of a world: a tenth of the items withheld to choose by and a tenth to judge by."""
    number_I = np.arange(dataset.num_items)
    return split_by_time(dataset.events, number_I % 10 == 8, number_I % 10 == 9)


def _short(
    random: np.random.Generator, latent_IL: NDArray[np.float64], appeal_I: NDArray[np.float64], size: Size
) -> list[tuple[int, int]]:
    """One visit each, to items that are like one another; and a few who take whatever there is."""
    busy = round(size.busy_share * size.users)
    rows: list[tuple[int, int]] = []
    for user in range(size.users):
        if user < busy:
            fit_I = appeal_I
            count = int(size.busy_events * random.uniform(0.5, 1.5))
        else:
            wish_L = _unit(latent_IL[random.integers(len(latent_IL))] + 0.3 * _unit(random.standard_normal(LATENT_DIM)))
            fit_I = SHARPNESS * latent_IL @ wish_L + appeal_I
            count = int(random.choice([1, 2, 3], p=[0.45, 0.3, 0.25]))
        rows += [(user, int(item)) for item in _taken(random, fit_I, count)]
    return rows


def _long(
    random: np.random.Generator, latent_IL: NDArray[np.float64], appeal_I: NDArray[np.float64], size: Size
) -> list[tuple[int, int]]:
    """A lasting taste of three themes, of which one is followed for a while."""
    rows: list[tuple[float, int, int]] = []
    for user in range(size.users // 8):
        tastes_PL = latent_IL[random.integers(len(latent_IL), size=3)]
        count = int(random.integers(20, 100))
        seen: set[int] = set()
        for number in range(count):
            taste_L = tastes_PL[(number * 3) // count] if random.random() < 0.7 else tastes_PL[random.integers(3)]
            (item,) = _taken(random, SHARPNESS * latent_IL @ taste_L + appeal_I, 1)
            if item not in seen:
                seen.add(int(item))
                rows.append((number + random.random(), user, int(item)))
    return [(user, item) for _, user, item in sorted(rows)]


def _taken(random: np.random.Generator, fit_I: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Without replacement, by the softmax of how well they fit (Gumbel's trick)."""
    taken: NDArray[np.int64] = np.argsort(-(fit_I + random.gumbel(size=len(fit_I))))[:count]
    return taken


def _features(random: np.random.Generator, latent_IL: NDArray[np.float64], sees_L: NDArray[np.bool_]) -> Features:
    directions_LK = np.linalg.qr(random.standard_normal((CONTENT_DIM, LATENT_DIM)))[0].T
    spread_K = np.exp(random.normal(0, 0.7, CONTENT_DIM))
    noise_IK = _unit(random.standard_normal((len(latent_IL), CONTENT_DIM)) * spread_K)
    vectors_IK = (latent_IL * sees_L) @ directions_LK + NOISE * noise_IK + 0.5 * directions_LK[0]
    return Features(f"generated-{CONTENT_DIM}", vectors_IK.astype(np.float32), np.arange(len(latent_IL) + 1))


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit


# ---------------------------------------------------------------------- the bench


def judged(kind: World, seed: int, recipes: str) -> dict[str, float]:
    """Train on a world, and ask the space and the baselines what was kept for the test: NDCG@20 and Recall@20."""
    dataset = world(kind)
    split = split_of(dataset)
    with tempfile.TemporaryDirectory() as directory:
        settings = TrainSettings.model_validate(
            {"event_weights": {"like": 1.0}, "seed": seed, "recipes": recipes, "final_fit": False}
        )
        made = train(dataset, split, settings, Path(directory) / "space", "cpu", Silent())
        items = embed_items(
            AlignRuntime(made.judged.space, device="cpu", dtype="float32", threads=1),
            replace(
                dataset,
                features=made.judged.learned.features,
                neighbors=made.judged.learned.neighbors or dataset.neighbors,
            ),
        )
        score = space_score(made.judged.space, items)
    asked = {"known": warm_questions(split, "test"), "new": cold_questions(split, "test")}
    return {
        f"{name} {kind_of}": float(getattr(ask(questions, score), name)(20).mean())
        for kind_of, questions in asked.items()
        for name in ("recall", "ndcg")
    }


def baselines_of(kind: World) -> dict[str, dict[str, float]]:
    """The best setting of each, by the test itself: that errs against the space."""
    dataset = world(kind)
    split = split_of(dataset)
    known = known_before(dataset, split, "test")
    asked = {"known": warm_questions(split, "test"), "new": cold_questions(split, "test")}
    found: dict[str, dict[str, float]] = {}
    compared: list[Baseline] = [
        Ease((20.0, 50.0, 100.0, 200.0)), ItemKnn(), ContentMean(["image"]), ContentMean(["image", "sound"])
    ]  # fmt: skip
    for baseline in compared:
        best = found[baseline.name] = {}
        for _, score in baseline.candidates(known, 0):
            for kind_of, questions in asked.items():
                ranking = ask(questions, score)
                for name in ("recall", "ndcg"):
                    value = float(getattr(ranking, name)(20).mean())
                    best[f"{name} {kind_of}"] = max(value, best.get(f"{name} {kind_of}", 0.0))
    return found


class Silent:
    """Watches a training and says nothing."""

    def epoch(self, number: int, num_steps: int) -> AbstractContextManager[Callable[[], object]]:
        return nullcontext(lambda: None)

    def tell(self, report: EpochReport, is_best: bool) -> None:
        pass

    def begin(self, what: str) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", choices=("short", "long"), default=["short", "long"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--recipes", default="plain,graph", help="that are tried, as for `align-worker train`")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(host_line(), flush=True)
    for kind in arguments.worlds:
        for name, figures in baselines_of(kind).items():
            print(
                f"{kind:<6}{name:<28}" + "  ".join(f"{key} {value:.4f}" for key, value in figures.items()), flush=True
            )
        spaces = []
        for seed in range(arguments.seeds):
            spaces.append(judged(kind, seed, arguments.recipes))
            line = "  ".join(f"{key} {value:.4f}" for key, value in spaces[-1].items())
            print(f"{kind:<6}{f'space, seed {seed}':<28}{line}", flush=True)
        means = "  ".join(f"{key} {np.mean([each[key] for each in spaces]):.4f}" for key in spaces[0])
        print(f"{kind:<6}{'spaces, mean':<28}{means}", flush=True)


if __name__ == "__main__":
    main()
