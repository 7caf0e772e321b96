from __future__ import annotations

import numpy as np
import pytest

from schemas import NewItem, decode, encode
from worker.synthetic import LATENT_DIM, MODALITIES, THEMES, Catalogue, SyntheticItem


def features(items: list[SyntheticItem], modality: str) -> np.ndarray:
    """`[I, D]`, of items that all have the modality."""
    return np.stack([item.features[modality].to_numpy().astype(np.float32) for item in items])


def cosines(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    rows, columns = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (rows, columns))
    return rows @ columns.T


def test_the_seed_decides_every_item_however_many_are_asked_for() -> None:
    whole = [item.message(1, 2) for item in Catalogue(3).items(700)]
    assert [item.message(1, 2) for item in Catalogue(3).items(10)] == whole[:10]
    assert [item.message(1, 2) for item in Catalogue(3).items(300, start=250)] == whole[250:550]
    assert next(Catalogue(4).items(1)).message(1, 2) != whole[0]
    assert len({item.item_id for item in whole}) == 700


def test_items_are_valid_messages() -> None:
    for item in Catalogue(0, max_vectors={"text": 3}).items(50):
        message = item.message(revision=1, event_time_ms=2)
        assert decode(NewItem, encode(message)) == message


def test_some_modalities_are_missing_and_none_of_the_items_is_without() -> None:
    items = list(Catalogue(0, missing_share=0.4).items(2_000))
    assert all(item.features for item in items)
    for name in MODALITIES:
        assert np.mean([name not in item.features for item in items]) == pytest.approx(0.4, abs=0.06)


def test_what_items_are_like_shows_in_every_modality() -> None:
    items = list(Catalogue(0, missing_share=0.0).items(600))
    themes = np.array([item.theme for item in items])
    assert set(themes) == set(range(len(THEMES)))
    for name in MODALITIES:
        similar = cosines(features(items, name), features(items, name))
        np.fill_diagonal(similar, -1)
        nearest = np.argsort(-similar, axis=1)[:, :5]
        assert np.mean(themes[nearest] == themes[:, None]) > 0.7


def test_a_modality_shows_the_latent_dimensions_that_it_sees_and_no_other() -> None:
    catalogue = Catalogue(0, missing_share=0.0)
    items = list(catalogue.items(3_000))
    latent = np.stack([item.latent_L for item in items])
    blind = []
    for name in MODALITIES:
        found, *_ = np.linalg.lstsq(features(items, name), latent, rcond=None)
        explained = 1 - (latent - features(items, name) @ found).var(axis=0) / latent.var(axis=0)
        assert (explained[catalogue.sees(name)] > 0.6).all()
        # A dimension that is not seen can still be guessed in part, from the theme.
        assert explained[catalogue.sees(name)].min() > explained[~catalogue.sees(name)].max()
        blind.append(~catalogue.sees(name))
    assert np.sum(blind, axis=0).tolist() == [1] * LATENT_DIM


def test_one_modality_alone_shows_all() -> None:
    assert Catalogue(0, {"text": 32}).sees("text").all()


def test_several_vectors_of_an_item_are_about_the_same_or_clutter() -> None:
    catalogue = Catalogue(0, {"image": 64}, missing_share=0.0, max_vectors={"image": 6}, clutter_share=0.5)
    items = list(catalogue.items(500))
    counts = [item.features["image"].num_vectors for item in items]
    assert set(counts) == set(range(1, 7))
    vectors = [item.features["image"].to_numpy().astype(np.float32) for item in items]
    first = np.stack([each[0] for each in vectors])  # never clutter
    others = np.concatenate([each[1:] for each in vectors])
    owners = np.repeat(np.arange(len(items)), np.array(counts) - 1)
    similarity = np.sum(cosines(others, first) * np.eye(len(items))[owners], axis=1)
    clutter = cosines(others, others.mean(axis=0, keepdims=True))[:, 0]
    # Two kinds, about half and half: like the item's first vector, or like one another.
    assert np.mean(similarity > 0.25) == pytest.approx(0.5, abs=0.07)
    assert np.corrcoef(similarity, clutter)[0, 1] < -0.6


def test_a_modality_smaller_than_the_latent_space_is_possible() -> None:
    assert next(Catalogue(0, {"text": 4}).items(1)).features["text"].shape == (4,)
