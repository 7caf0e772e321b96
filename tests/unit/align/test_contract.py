"""The contract accepts what the space can embed and says precisely what it cannot."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.align.builders import Item, feature, spec
from worker.align.contract import Contract, Refusal
from worker.align.spec import ModalitySpec

CONTRACT = Contract(
    spec({"text": ModalitySpec(dim=4, encoder="e5"), "image": 3, "video": ModalitySpec(dim=2, max_vectors=3)})
)


def ones(*shape: int, encoder: str = "e5") -> object:
    return feature(np.ones(shape), encoder=encoder)


def check(**features: object) -> object:
    item: Item = features  # type: ignore[assignment]
    return CONTRACT.check(item)


def test_accepted_features_come_back_uncopied() -> None:
    item: Item = {"text": feature(np.ones(4), encoder="e5"), "image": feature(np.ones(3))}
    assert CONTRACT.check(item) is item


def test_one_modality_is_enough() -> None:
    assert isinstance(check(image=ones(3)), dict)


def test_modalities_the_space_does_not_know_are_left_out() -> None:
    item: Item = {"smell": feature(np.ones(9)), "image": feature(np.ones(3))}
    accepted = CONTRACT.check(item)
    assert accepted == {"image": item["image"]}
    assert len(item) == 2


def test_a_space_without_an_encoder_takes_any() -> None:
    assert isinstance(check(image=ones(3, encoder="whatever")), dict)


def test_a_wrong_encoder() -> None:
    assert check(text=ones(4, encoder="bge")) == Refusal(
        "wrong_encoder", "features.text.encoder: came 'bge'; the space expects 'e5'"
    )


@pytest.mark.parametrize("shape", [(5,), (3,), (2, 4), (1, 5), (0, 4), (1, 1, 4), ()])
def test_a_wrong_shape(shape: tuple[int, ...]) -> None:
    assert check(text=ones(*shape)) == Refusal(
        "wrong_shape", f"features.text.shape: came {list(shape)}; the space expects [4]"
    )


@pytest.mark.parametrize("shape", [(2,), (1, 2), (3, 2)])
def test_several_vectors_up_to_the_limit(shape: tuple[int, ...]) -> None:
    assert isinstance(check(video=ones(*shape)), dict)


@pytest.mark.parametrize("shape", [(4, 2), (0, 2), (3,), (2, 3)])
def test_more_vectors_than_the_space_takes_are_refused_not_cut(shape: tuple[int, ...]) -> None:
    assert check(video=ones(*shape)) == Refusal(
        "wrong_shape", f"features.video.shape: came {list(shape)}; the space expects [2] or [1 to 3, 2]"
    )


def test_one_vector_may_come_as_a_matrix() -> None:
    assert isinstance(check(text=ones(1, 4)), dict)


def test_no_feature_at_all() -> None:
    assert check() == Refusal("no_modality", "features: came none; the space takes image, text, video")


def test_no_feature_that_the_space_knows() -> None:
    assert check(smell=ones(3), taste=ones(3)) == Refusal(
        "no_modality", "features: came only smell, taste; the space takes image, text, video"
    )


def test_the_detail_stays_short_whatever_comes() -> None:
    refusal = check(**{f"m{n}": ones(1) for n in range(1000)})
    assert isinstance(refusal, Refusal)
    assert "and 992 more" in refusal.detail
    assert len(refusal.detail) < 200


def test_one_feature_that_does_not_fit_refuses_the_item() -> None:
    assert isinstance(check(text=ones(4), image=ones(7)), Refusal)
