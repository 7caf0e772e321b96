"""Vectors that go bad are told, and vectors that are well are not."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.bench.health import TO_BE_TOLD, WITHIN, Bench, detections
from worker.errors import SpaceError
from worker.vector_health import (
    Decision,
    Finding,
    References,
    VectorWatch,
    Verdict,
    decide,
    judge,
    measured,
    read_references,
    sums_of,
    sums_together,
    write_references,
)
from worker.vector_health.judge import Cosines, alignment, chi_square, deviations, revision_jump, silent_inputs
from worker.vector_health.watch import BLOCK

DIM = 32
BOTH, TEXT = ("image", "text"), ("text",)


def unit(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def vectors(count: int, seed: int, shift: float = 0.0) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    scales_D = 1 / np.sqrt(np.arange(1, DIM + 1))
    return unit(random.standard_normal((count, DIM)) * scales_D + shift)


@pytest.fixture(scope="module")
def references() -> References:
    found = measured("0" * 16, {BOTH: vectors(4_000, 1), TEXT: vectors(1_000, 2, 0.3)}, {"text": 1.0, "image": 0.8})
    assert found is not None
    return found


def mixed(count: int, seed: int) -> tuple[NDArray[np.float32], list[tuple[str, ...]]]:
    is_text = np.random.default_rng(seed).random(count) < 0.2
    rows_ID = np.where(is_text[:, None], vectors(count, seed + 1, 0.3), vectors(count, seed + 2))
    return rows_ID, [TEXT if each else BOTH for each in is_text]


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(0)


def test_every_fault_is_told_within_a_thousand_items(bench: Bench) -> None:
    later = detections([bench], TO_BE_TOLD, lambda line: None)
    assert set(later) == {fault.name for fault in TO_BE_TOLD}
    assert all(0 < items <= WITHIN for items in later.values()), later


def test_vectors_that_are_well_raise_no_alarm(references: References) -> None:
    watch = VectorWatch(references, DIM)
    for seed in range(100, 160):
        watch.add(*mixed(2_000, 10 * seed))
    assert not watch.num_ill.total()
    assert watch.decide(100 * BLOCK) == Decision(True, 100 * BLOCK, ())


def test_a_mean_that_is_well_is_a_standard_deviation_off(references: References) -> None:
    found = [
        next(each.value for each in judge(sums_of(references, *mixed(1_000, 7 * seed)), references))
        for seed in range(60)
    ]
    assert -1.0 < np.mean(found) < 2.0  # the largest of several
    assert max(found) < 5.0


def test_another_mix_of_patterns_is_no_shift_of_the_mean(references: References) -> None:
    """What has changed is the share of images, and that alone is told."""
    findings = judge(sums_of(references, vectors(1_000, 77, 0.3), [TEXT] * 1_000), references)
    assert [each.check for each in findings if each.is_ill] == ["modalities"]
    assert "0% of them have image; in training it was 80%" in findings[-1].detail


def test_a_pattern_that_training_has_not_met_is_not_judged_by_others(references: References) -> None:
    sums = sums_of(references, vectors(1_000, 5, 3.0), [("audio",)] * 1_000)
    assert sums.num_known == 0
    assert [each.check for each in judge(sums, references)] == ["modalities"]


def test_blocks_add_up_to_what_they_are_together(references: References) -> None:
    rows_ID, patterns = mixed(1_000, 3)
    parts = [sums_of(references, rows_ID[a : a + 250], patterns[a : a + 250]) for a in range(0, 1_000, 250)]
    whole, together = sums_of(references, rows_ID, patterns), sums_together(parts)
    assert together.num_items == whole.num_items
    np.testing.assert_array_equal(together.bins_BQ, whole.bins_BQ)
    np.testing.assert_allclose(together.sum_D, whole.sum_D, atol=1e-3)
    assert together.with_modality == whole.with_modality == Counter(name for names in patterns for name in names)
    assert (whole.bins_BQ.sum(1) == 1_000).all()


@pytest.mark.parametrize("size", [1, 7, 512, 3_000])
def test_batches_of_any_size_give_the_same_verdicts(references: References, size: int) -> None:
    rows_ID, patterns = mixed(3_000, 4)
    one, other = VectorWatch(references, DIM), VectorWatch(references, DIM)
    one.add(rows_ID, patterns)
    for start in range(0, len(rows_ID), size):
        other.add(rows_ID[start : start + size], patterns[start : start + size])
    assert list(one.verdicts) == list(other.verdicts)
    assert len(one.verdicts) == 3_000 // BLOCK


def test_vectors_that_are_all_the_same_are_told_without_references() -> None:
    watch = VectorWatch(None, DIM)
    watch.add(vectors(1_000, 1), [()] * 1_000)
    assert not watch.num_ill.total()
    watch.add(np.repeat(vectors(1, 2), 1_500, 0), [()] * 1_500)
    assert watch.num_ill["collapse"]


def test_what_was_ill_a_moment_ago_is_still_told(references: References) -> None:
    """A scrape sees one block of many."""
    watch = VectorWatch(references, DIM)
    watch.add(np.repeat(vectors(1, 2), BLOCK, 0), [BOTH] * BLOCK)
    for seed in range(8):
        watch.add(*mixed(BLOCK, 50 + seed))
    assert not watch.verdicts[-1].ill
    assert any(each.is_ill for each in watch.findings)
    assert not watch.decide(9 * BLOCK).is_healthy
    assert watch.decide(4 * BLOCK).is_healthy


# ------------------------------------------------------------------ what a gate asks


WELL = Verdict(BLOCK, (Finding("collapse", 1.0, 0.5, False, "wide"),))
ILL = Verdict(BLOCK, (Finding("collapse", 0.1, 0.5, True, "narrow"),))


def test_a_gate_looks_back_no_further_than_it_asks() -> None:
    assert decide([ILL, WELL, WELL], 2 * BLOCK) == Decision(True, 2 * BLOCK, ())
    assert decide([ILL, WELL, WELL], 3 * BLOCK) == Decision(False, 3 * BLOCK, ("collapse: narrow",), ILL.ill)


def test_a_gate_stays_shut_until_enough_was_judged() -> None:
    assert decide([WELL], 1_000) == Decision(False, BLOCK, ("only 334 of 1,000 items have been judged",))
    assert not decide([], 1).is_healthy


# ------------------------------------------------------------------ references


def test_references_are_read_as_they_were_written(tmp_path: Path, references: References) -> None:
    write_references(tmp_path, replace(references, usual={"mean_shift": 2.5}))
    found = read_references(tmp_path, references.space_id)
    assert found is not None
    assert (found.patterns, found.shares, found.usual) == (
        references.patterns, references.shares, {"mean_shift": 2.5},
    )  # fmt: skip
    np.testing.assert_allclose(found.means_PD, references.means_PD, atol=1e-6)
    rows_ID, patterns = mixed(1_000, 9)
    mine, read = (judge(sums_of(each, rows_ID, patterns), each) for each in (references, found))
    assert [each.is_ill for each in mine] == [each.is_ill for each in read]


def test_a_space_without_references_has_none(tmp_path: Path) -> None:
    assert read_references(tmp_path, "0" * 16) is None


def test_references_of_another_space_are_refused(tmp_path: Path, references: References) -> None:
    write_references(tmp_path, references)
    with pytest.raises(SpaceError, match="was measured on space 0000000000000000, and this is 1111111111111111"):
        read_references(tmp_path, "1" * 16)


def test_references_that_are_no_such_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "references.safetensors").write_bytes(b"\x05nonsense")
    with pytest.raises(SpaceError, match=r"references\.safetensors cannot be read.*space reference"):
        read_references(tmp_path, "0" * 16)


def test_a_few_items_give_no_references() -> None:
    assert measured("0" * 16, {TEXT: vectors(50, 1)}, {"text": 1.0}) is None


def test_what_a_catalogue_gives_in_its_own_order_is_well(references: References) -> None:
    sums = sums_of(references, vectors(1_000, 5, 0.4), [BOTH] * 1_000)
    (shift, *_) = judge(sums, references)
    (same, *_) = judge(sums, replace(references, usual={"mean_shift": shift.value}))
    assert shift.is_ill
    assert not same.is_ill


# ------------------------------------------------------------------ what vectors alone do not say


def test_inputs_that_say_nothing_are_told_where_more_lack_it_than_in_training(references: References) -> None:
    (well,) = silent_inputs({"image": 250}, 1_000, references)
    (ill,) = silent_inputs({"image": 350, "text": 20}, 1_000, references)
    assert not well.is_ill
    assert ill.is_ill
    assert ill.detail.startswith("35% of the items come with image that says nothing")


def test_one_vector_that_turns_is_no_fault_and_three_are() -> None:
    assert revision_jump([0.0] * 2) == []
    assert not revision_jump([0.0] * 50 + [0.5, 0.5])[0].is_ill
    assert revision_jump([0.0] * 50 + [0.5] * 3)[0].is_ill
    assert not revision_jump([1e-5] * 50)[0].is_ill  # rounding


def test_users_who_come_to_other_items_than_before_are_told() -> None:
    usual = Cosines(20_000, 8_000.0, 20_000 * (0.4**2 + 0.2**2))
    assert not alignment(Cosines(1_000, 395.0, 200.0), usual)[0].is_ill
    (found,) = alignment(Cosines(1_000, 300.0, 130.0), usual)
    assert found.is_ill
    assert "a cosine of 0.300 with its user; it used to be 0.400" in found.detail


def test_what_is_ill_does_not_become_usual() -> None:
    watch = VectorWatch(None, DIM)
    random = np.random.default_rng(0)
    for mean in (0.5,) * 4 + (0.1,) * 6:
        watch.met(random.normal(mean, 0.1, 1_000).astype(np.float32))
    watch.add(vectors(BLOCK, 1), [()] * BLOCK)
    assert watch.num_ill["alignment"] == 1


@pytest.mark.parametrize("freedom", [4.0, 9.0, 64.0])
def test_chi_square_is_brought_to_standard_deviations(freedom: float) -> None:
    squares = np.random.default_rng(0).chisquare(freedom, 20_000)
    found = np.array([deviations(each, freedom) for each in squares])
    assert abs(found.mean()) < 0.03
    assert abs(found.std() - 1) < 0.03
    assert deviations(chi_square(5.0, freedom), freedom) == pytest.approx(5.0)
