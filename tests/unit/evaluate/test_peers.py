"""Baselines beside the same methods of libraries that others trust. Left out where these are missing (extra `dev`)."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.evaluate.planted import planted
from worker.evaluate.baselines import BprMf, Ease, ItemKnn, Vbpr, known_before
from worker.evaluate.questions import ask, warm_questions

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the libraries, which are older than NumPy
DATA, SPLIT = planted()
KNOWN = known_before(DATA, SPLIT, "test")
QUESTIONS = warm_questions(SPLIT, "test")


def matrix() -> Any:
    sparse = pytest.importorskip("scipy.sparse")
    events, shape = KNOWN.events, (KNOWN.num_users, KNOWN.num_items)
    return sparse.csr_matrix((np.ones(len(events), np.float32), (events.users_E, events.items_E)), shape)


def cornac_data() -> Any:
    cornac_data = pytest.importorskip("cornac.data", reason="cornac is not installed: pip install 'align-worker[dev]'")
    rows = zip(KNOWN.events.users_E.tolist(), KNOWN.events.items_E.tolist(), strict=True)
    return cornac_data.Dataset.from_uir([(user, item, 1.0) for user, item in rows], seed=0)


def recall_of(scores_UI: np.ndarray) -> float:
    scores = torch.from_numpy(np.ascontiguousarray(scores_UI, np.float64))
    return float(ask(QUESTIONS, lambda some: scores[torch.from_numpy(some.users_Q)]).recall(6).mean())


def our_recall(score: Any) -> float:
    return float(ask(QUESTIONS, score).recall(6).mean())


@pytest.mark.filterwarnings("ignore:Method expects CSR input")
def test_item_knn_is_that_of_implicit() -> None:
    nearest = pytest.importorskip(
        "implicit.nearest_neighbours", reason="implicit is not installed: pip install 'align-worker[dev]'"
    )
    theirs = nearest.CosineRecommender(K=KNOWN.num_items)
    theirs.fit(matrix(), show_progress=False)
    similar_II = theirs.similarity.toarray()
    np.fill_diagonal(similar_II, 0)
    expected_UI = matrix() @ similar_II
    warm = np.flatnonzero(KNOWN.count_I)
    scores_QC = ItemKnn().fit(KNOWN, 0, {"shrink": 0.0, "neighbors": np.inf})(QUESTIONS).numpy()
    assert scores_QC[:, warm] == pytest.approx(expected_UI[QUESTIONS.users_Q][:, warm], abs=1e-5)
    assert our_recall(lambda some: torch.from_numpy(scores_QC)) == pytest.approx(recall_of(expected_UI), abs=1e-9)


def test_ease_is_that_of_cornac() -> None:
    models = pytest.importorskip("cornac.models", reason="cornac is not installed: pip install 'align-worker[dev]'")
    data = cornac_data()
    theirs = models.EASE(lamb=20.0, posB=False, verbose=False)
    theirs.fit(data)
    items_A = np.array([int(item) for item in data.item_ids])
    scores_QC = Ease().fit(KNOWN, 0, {"penalty": 20.0})(QUESTIONS).numpy()
    expected_QA = matrix()[QUESTIONS.users_Q][:, items_A] @ theirs.B
    assert scores_QC[:, items_A] == pytest.approx(expected_QA, abs=1e-4)


@pytest.mark.parametrize("method", ["BPR-MF", "VBPR"])
def test_factors_learned_from_pairs_are_as_good_as_those_of_cornac(method: str) -> None:
    models = pytest.importorskip("cornac.models", reason="cornac is not installed: pip install 'align-worker[dev]'")
    data = cornac_data()
    if method == "BPR-MF":
        theirs = models.BPR(k=64, max_iter=200, learning_rate=0.05, lambda_reg=0.01, seed=0, verbose=False)
        ours = BprMf().fit(KNOWN, 0, {"epochs": 120, "decay": 0.001})
    else:
        from cornac.data import FeatureModality

        text_IK = DATA.features["text"].mean_IK()
        ids = list(data.item_ids)
        images = FeatureModality(features=text_IK[[int(item) for item in ids]], ids=ids, normalized=False)
        images.build(id_map=data.iid_map)
        data.add_modalities(item_image=images)
        theirs = models.VBPR(k=32, k2=32, n_epochs=60, batch_size=64, learning_rate=0.01, use_gpu=False, seed=0)
        ours = Vbpr(["text"]).fit(KNOWN, 0, {"epochs": 60, "decay": 0.004})
    theirs.fit(data)
    scores_UI = np.full((KNOWN.num_users, KNOWN.num_items), -np.inf)
    columns = [int(item) for item in data.item_ids]
    for number, user in enumerate(data.user_ids):
        scores_UI[int(user), columns] = theirs.score(number)
    assert our_recall(ours) > recall_of(scores_UI) - 0.1
