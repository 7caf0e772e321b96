"""A training as a whole: what it learns, that it can be interrupted, and that what it judged is what is served."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from schemas import ItemVector, NewItem, decode, encode
from tests.unit.train.worlds import DATA, SPLIT, WEIGHTS, Quiet, settings, trained
from worker.align import AlignRuntime, Contract, Space
from worker.data import Dataset, split_by_time
from worker.data.load import assemble
from worker.data.split import sample_cold_items
from worker.errors import ConfigError, SpaceError
from worker.evaluate.questions import ask, cold_questions, warm_questions
from worker.evaluate.spaces import embed_items, space_score
from worker.synthetic import Audience, Catalogue
from worker.train.checkpoint import CHECKPOINT_FILE
from worker.train.run import Learned, item_parts, train
from worker.train.settings import TrainSettings

KINDS = ("concat_mlp", "self_attention", "cross_attention", "gated")
PARITY = 2e-5
"""Between a vector that validation judged and one that is served, both in float32: they are computed in batches of
different shapes."""


def with_learned(learned: Learned) -> Any:
    """The dataset that `evaluate` loads when it is given the parts that training wrote."""
    return replace(DATA, features=learned.features, neighbors=learned.neighbors or DATA.neighbors)


def figures_of(space: Space, learned: Learned) -> dict[str, float]:
    """What validation says of the space by the code of `evaluate`, which is that of the worker."""
    runtime, dataset = AlignRuntime(space, device="cpu", dtype="float32", threads=1), with_learned(learned)
    everything = space_score(space, embed_items(runtime, dataset))
    rankings = {
        "known": ask(warm_questions(SPLIT, "val"), everything),
        "new": ask(cold_questions(SPLIT, "val"), everything),
    }
    content = set(learned.features) - {"behavior"}
    if content != set(learned.features):
        score = space_score(space, embed_items(runtime, dataset, content))
        rankings["content"] = ask(warm_questions(SPLIT, "val"), score)
    figures = {}
    for kind, ranking in rankings.items():
        figures[f"validation/{kind}/recall@20"] = ranking.recall(20).mean()
        figures[f"validation/{kind}/ndcg@20"] = ranking.ndcg(20).mean()
    return figures


@pytest.mark.parametrize("graph", [False, True], ids=["", "graph"])
@pytest.mark.parametrize("fusion", KINDS)
def test_every_fusion_learns_and_what_was_judged_is_what_is_served(tmp_path: Path, fusion: str, graph: bool) -> None:
    watcher = Quiet()
    space, learned = trained(tmp_path / "space", watcher=watcher, fusion=fusion, graph=graph, epochs=8, patience=8)
    losses = [report.losses.next_item for report in watcher.epochs]
    assert min(losses[1:]) < losses[0] - 0.2
    assert space.manifest.evaluation == pytest.approx(figures_of(space, learned), abs=1e-9)
    assert (space.spec.fusion.kind, space.spec.graph is not None) == (fusion, graph)


@pytest.mark.parametrize(
    "changes",
    [
        {"score": "cosine"},
        {"user": "decayed_sum"},
        {"behavior_dim": 0},
        {"content_dim": 0},
        {"align_weight": 0.0},
        {"align_withheld": True},
        {"full_softmax_items": 1, "negatives": 8},
        {"full_softmax_items": 1, "negatives": 8, "graph": True},
        {"full_softmax_items": 1, "negatives": 8, "refreshed": 0, "graph": True},
        {"fusion": "self_attention", "layers": 2},
        {"fusion": "cross_attention", "query": "image"},
    ],
    ids=lambda changes: " ".join(f"{name}={value}" for name, value in changes.items()),
)
def test_every_choice_gives_a_space_that_is_as_good_as_it_was_judged(tmp_path: Path, changes: dict[str, Any]) -> None:
    space, learned = trained(tmp_path / "space", epochs=2, **changes)
    assert space.manifest.evaluation == pytest.approx(figures_of(space, learned), abs=1e-9)


@pytest.mark.parametrize("ordered", ["text", ""])
def test_the_places_of_vectors_matter_in_an_ordered_modality_alone(tmp_path: Path, ordered: str) -> None:
    """Each item has its text and that of another, one after the other."""
    text = DATA.features["text"]
    both_NK = np.stack([text.vectors_NK, np.roll(text.vectors_NK, 10, axis=0)], axis=1)
    pairs = replace(text, vectors_NK=both_NK.reshape(-1, text.dim), starts=2 * text.starts)
    dataset = replace(DATA, features={"text": pairs})
    space, _ = trained(tmp_path / "space", dataset, fusion="gated", epochs=8, behavior_dim=0, ordered=ordered)
    swapped = replace(pairs, vectors_NK=both_NK[:, ::-1].reshape(-1, text.dim))
    runtime = AlignRuntime(space, device="cpu", dtype="float32", threads=1)
    vectors_ID, swapped_ID = (
        embed_items(runtime, replace(DATA, features={"text": each})).vectors_ID for each in (pairs, swapped)
    )
    apart = float((vectors_ID - swapped_ID).abs().max())
    assert apart > 10 * PARITY if ordered else apart < PARITY, apart
    assert space.spec.modalities["text"].ordered == bool(ordered)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ordered": "frames", "fusion": "gated"}, "--ordered: 'frames' is not a modality; there is: behavior, image"),
        ({"ordered": "text"}, "modalities.text.ordered: concat_mlp takes the mean"),
        ({"layers": 2}, "--layers: only --fusion self_attention has it"),
        ({"query": "text"}, "--query: only --fusion cross_attention has it"),
        ({"query": "sound", "fusion": "cross_attention"}, "fusion.query: 'sound' is not a modality"),
    ],
)  # fmt: skip
def test_a_choice_that_makes_no_space_is_named(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        trained(tmp_path / "space", **changes)


def test_the_published_vector_of_a_message_is_the_one_that_was_judged(tmp_path: Path) -> None:
    """From the wire to the wire, with what training writes for the items topic."""
    messages = [item.message(1, 0) for item in Catalogue(3, missing_share=0.3).items(120)]
    audience = Audience(Catalogue(3, missing_share=0.3), 40, seed=0, start_ms=0)
    events = [event.message() for event in audience.events(list(Catalogue(3).items(120)), 900, end_ms=10**9)]
    loaded = assemble(messages, events, WEIGHTS)
    dataset = loaded.dataset
    cold_I = sample_cold_items(120, 0.2, 0, np.ones(120, bool))
    split = split_by_time(dataset.events, np.zeros(120, bool), cold_I)
    space, learned = trained(tmp_path / "space", dataset, split, epochs=1)
    newest = {message.item_id: message for message in messages}
    parts = {part.item_id: part for part in item_parts(loaded, learned, "behavior")}
    assert 0 < len(parts) < 120
    again = assemble([*messages, *parts.values()], events, WEIGHTS).dataset
    runtime = AlignRuntime(space, device="cpu", dtype="float32", threads=1)
    judged = embed_items(runtime, again)
    contract = Contract(space.spec)
    for row, item_id in enumerate(again.item_ids[:40]):
        received = decode(NewItem, encode(newest[item_id]))
        features = {**received.features, **(parts[item_id].features if item_id in parts else {})}
        served = runtime.embed([contract.check(features)])
        vector, prior = served.rows("f4")[0], served.priors[0]
        published = decode(
            ItemVector,
            encode(
                ItemVector(
                    item_id=item_id, revision=1, event_time_ms=0, space_id=space.space_id,
                    vector={"dtype": "f4", "shape": (space.spec.dim,), "data": vector},
                    modalities=tuple(sorted(features)), prior=float(prior), produced_at_ms=0,
                )
            ),
        )  # fmt: skip
        np.testing.assert_allclose(published.vector.to_numpy(), judged.vectors_ID[row].numpy(), rtol=0, atol=PARITY)
        assert published.prior == pytest.approx(judged.priors_I[row].item(), abs=PARITY)


class StoppedError(Exception):
    pass


class StopsAfter(Quiet):
    def __init__(self, num_epochs: int) -> None:
        super().__init__()
        self._left = num_epochs

    def step(self) -> None:
        super().step()
        if len(self.epochs) == self._left:
            raise StoppedError


@pytest.mark.parametrize("changes", [{}, {"full_softmax_items": 1, "negatives": 8, "refreshed": 16}], ids=str)
def test_an_interrupted_training_goes_on_to_the_same_space(tmp_path: Path, changes: dict[str, Any]) -> None:
    torch.manual_seed(1)
    whole, _ = trained(tmp_path / "whole", epochs=4, patience=4, **changes)
    with pytest.raises(StoppedError):
        trained(tmp_path / "parts", watcher=StopsAfter(2), epochs=4, patience=4, **changes)
    assert not (tmp_path / "parts" / "space.json").exists()
    torch.manual_seed(2)
    rest = Quiet()
    resumed, _ = trained(tmp_path / "parts", watcher=rest, epochs=4, patience=4, **changes)
    assert [report.epoch for report in rest.epochs] == [3, 4]
    assert resumed.space_id == whole.space_id
    assert not (tmp_path / "parts" / "training" / CHECKPOINT_FILE).exists()


def test_an_interrupted_training_does_not_go_on_with_something_else(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        trained(tmp_path, watcher=StopsAfter(1))
    with pytest.raises(ConfigError, match="other data or settings"):
        trained(tmp_path, learning_rate=0.5)
    checkpoint = tmp_path / "training" / CHECKPOINT_FILE
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(ConfigError, match=r"cannot be read.*remove"):
        trained(tmp_path)


def test_training_ends_after_its_patience_with_the_best_epoch(tmp_path: Path) -> None:
    watcher = Quiet()
    space, _ = trained(tmp_path / "space", watcher=watcher, epochs=60, patience=2, learning_rate=0.02)
    merits = [report.selection_metric for report in watcher.epochs]
    best = int(np.argmax(merits))
    assert len(merits) == best + 1 + 2
    report = json.loads((tmp_path / "space" / "training" / "report.json").read_text())
    assert report["best_epoch"] == best + 1
    assert report["space_id"] == space.space_id
    assert report["data"]["fingerprint"] == DATA.fingerprint
    assert len(report["epochs"]) == len(merits)
    assert report["epochs"][best]["known_ndcg"] == watcher.epochs[best].figures.known_ndcg
    assert (tmp_path / "space" / "training" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_other_seeds_give_other_spaces_and_equal_ones_the_same(tmp_path: Path) -> None:
    ids = [trained(tmp_path / name, epochs=1, seed=seed)[0].space_id for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    assert ids[0] == ids[1] != ids[2]


def test_a_directory_with_something_in_it_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    watcher = Quiet()
    with pytest.raises(SpaceError, match="is not empty"):
        trained(tmp_path, watcher=watcher)
    assert watcher.num_steps == 0


def test_without_anything_to_learn_from_it_says_so(tmp_path: Path) -> None:
    nobody = replace(SPLIT, train_E=np.zeros_like(SPLIT.train_E))
    with pytest.raises(ConfigError, match="--events: nothing to learn from"):
        trained(tmp_path / "space", split=nobody)
    with pytest.raises(ConfigError, match="--items: no item has features"):
        trained(tmp_path / "space", dataset=replace(DATA, features={}))


def test_withheld_items_teach_nothing_but_what_is_allowed(tmp_path: Path) -> None:
    """Whatever a withheld item holds, what is learned is the same but for the content block, which is fitted on all.
    They are there to choose by: where new items stand in one list, and which maps find one modality by another."""
    changed = {}
    for name, each in DATA.features.items():
        vectors = each.vectors_NK.copy()
        cold_N = np.repeat(~SPLIT.warm_I, each.counts_I)
        vectors[cold_N] = -vectors[cold_N]
        changed[name] = replace(each, vectors_NK=vectors)
    other = replace(DATA, features=changed)

    def learned(name: str, dataset: Dataset, **choices: Any) -> dict[str, torch.Tensor]:
        space, _ = trained(tmp_path / name, dataset, content_dim=0, epochs=1, **choices)
        chosen = ("prior.bias", "search_")
        return {name: weight for name, weight in space.weights.items() if not name.startswith(chosen)}

    one, same = learned("a", DATA), learned("b", other)
    assert all(torch.equal(one[name], same[name]) for name in one)
    one, same = learned("c", DATA, align_withheld=True), learned("d", other, align_withheld=True)
    assert not all(torch.equal(one[name], same[name]) for name in one)


def test_consistency_keeps_what_is_left_of_an_item_near_to_the_whole(tmp_path: Path) -> None:
    def distance(consistency_weight: float) -> float:
        """Of the vectors of known items without behaviour from those with it."""
        choices = {"consistency_weight": consistency_weight, "modality_dropout": 0.0, "behavior_dropout": 0.2}
        space, learned = trained(tmp_path / f"space-{consistency_weight}", epochs=8, patience=8, **choices)
        runtime = AlignRuntime(space, device="cpu", dtype="float32", threads=1)
        whole, left = (embed_items(runtime, with_learned(learned), kept) for kept in (None, {"text", "image"}))
        known_I = torch.from_numpy(learned.features["behavior"].present_I)
        block = slice(space.spec.learned_dim)
        return 1 - cosine_similarity(whole.vectors_ID[known_I, block], left.vectors_ID[known_I, block]).mean().item()

    assert distance(1.0) < 0.6 * distance(0.0)


def test_training_recovers_planted_structure(tmp_path: Path) -> None:
    """Cosines of trained vectors are nearer to those of the truth than the cosines of any modality are."""
    catalogue = Catalogue(0, modalities={"text": 48, "image": 32}, missing_share=0.1)
    items = list(catalogue.items(300))
    audience = Audience(catalogue, 150, seed=0, start_ms=0, drift_ms=10**12)
    events = [event.message() for event in audience.events(items, 6_000, end_ms=10**9)]
    dataset = assemble([item.message(1, 0) for item in items], events, {"like": 1.0, "view": 0.3}).dataset
    cold_val_I, cold_test_I = np.arange(300) % 10 == 0, np.arange(300) % 10 == 1
    split = split_by_time(dataset.events, cold_val_I, cold_test_I)
    torch.set_num_threads(1)
    space, learned = trained(
        tmp_path / "space", dataset, split, epochs=12, width=32, hidden=64, learned_dim=16, batch=256,
        event_weights={"like": 1.0, "view": 0.3}, content_weight=0.25,
    )  # fmt: skip
    found = embed_items(
        AlignRuntime(space, device="cpu", dtype="float32", threads=1), replace(dataset, features=learned.features)
    )
    truth_IL = np.stack([item.latent_L for item in items])
    both_I = np.logical_and.reduce([each.present_I for each in dataset.features.values()])

    def agreement(vectors_ID: np.ndarray, chosen_I: np.ndarray) -> float:
        """Correlation of the cosines of all pairs of items with those of the truth."""
        some, truth = vectors_ID[chosen_I], truth_IL[chosen_I]
        unit = some / np.linalg.norm(some, axis=1, keepdims=True)
        upper = np.triu_indices(len(some), 1)
        return float(np.corrcoef((unit @ unit.T)[upper], (truth @ truth.T)[upper])[0, 1])

    for chosen_I in (both_I & split.warm_I, both_I & cold_test_I):
        learned_agreement = agreement(found.vectors_ID.numpy(), chosen_I)
        of_modalities = {name: agreement(each.mean_IK(), chosen_I) for name, each in dataset.features.items()}
        assert learned_agreement > max(of_modalities.values()) + 0.02, (learned_agreement, of_modalities)


def test_settings_of_the_recipe_are_those_of_the_readme() -> None:
    text = (Path(__file__).parents[3] / "worker" / "train" / "README.md").read_text()
    defaults = TrainSettings(event_weights=WEIGHTS)
    for name in ("learning_rate", "modality_dropout", "behavior_dropout", "input_dropout", "align_weight"):
        assert f"`{name}` {getattr(defaults, name):g}" in text, name


def test_a_training_that_leaves_all_bounds_says_what_to_lower(tmp_path: Path) -> None:
    wild = settings(epochs=1).model_copy(update={"learning_rate": float("inf")})  # more than the setting takes
    with pytest.raises(ConfigError, match=r"--learning-rate inf: .* left all bounds"):
        train(DATA, SPLIT, wild, tmp_path / "space", "cpu", Quiet())


def test_a_directory_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    watcher = Quiet()
    with pytest.raises(SpaceError, match="/proc/nowhere cannot be written"):
        trained(Path("/proc/nowhere"), watcher=watcher, epochs=1)
    assert watcher.epochs == []
