"""That a space remembers what it was trained on, so that nobody asks it for that."""

from pathlib import Path

import numpy as np
import pytest

from tests.unit.evaluate.planted import COLD_TEST, COLD_VAL, planted
from worker.data.split import everything_to_learn_from, split_by_time
from worker.data.trained_on import HASHES_FILE, overlap, read_trained_on, trained_on, write_trained_on
from worker.errors import DataError

DATA, SPLIT = planted()


def test_what_was_written_is_what_is_read(tmp_path: Path) -> None:
    found = trained_on(DATA, SPLIT)
    write_trained_on(tmp_path, found)
    read = read_trained_on(tmp_path)
    assert read is not None
    assert (read.learned == found.learned).all()
    assert (read.chosen_by == found.chosen_by).all()
    assert set(read.cold_test) == {DATA.item_ids[item] for item in np.flatnonzero(COLD_TEST)}
    listed = (tmp_path / "cold_val.txt").read_text().split()
    assert listed == [DATA.item_ids[item] for item in np.flatnonzero(COLD_VAL)]


def test_without_a_record_nothing_is_known_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    assert read_trained_on(tmp_path) is None
    (tmp_path / HASHES_FILE).write_bytes(b"PK no archive")
    with pytest.raises(DataError, match="trained_on"):
        read_trained_on(tmp_path)


def test_each_answer_is_learned_or_chosen_by_or_neither() -> None:
    found, events = trained_on(DATA, SPLIT), SPLIT.events

    def seen(marks: np.ndarray) -> tuple[int, int, int]:
        each = overlap(found, DATA, events.users_E[marks], events.items_E[marks])
        return each.num_answers, each.num_learned, each.num_chosen_by

    num_learned, num_cold_val = int(SPLIT.train_E.sum()), int(COLD_VAL[events.items_E].sum())
    assert seen(SPLIT.train_E) == (num_learned, num_learned, 0)
    assert seen(SPLIT.val_events) == (len(SPLIT.val_events), 0, len(SPLIT.val_events))
    assert seen(COLD_VAL[events.items_E]) == (num_cold_val, 0, num_cold_val)
    assert seen(SPLIT.test_events) == (len(SPLIT.test_events), 0, 0)
    assert seen(COLD_TEST[events.items_E])[1:] == (0, 0)


def test_items_withheld_by_another_draw_have_been_learned() -> None:
    other = split_by_time(DATA.events, np.roll(COLD_VAL, 3), np.roll(COLD_TEST, 3))
    asked = other.cold_test_I[other.events.items_E]
    each = overlap(trained_on(DATA, SPLIT), DATA, other.events.users_E[asked], other.events.items_E[asked])
    assert each.num_learned > 0.5 * each.num_answers


def test_what_was_fitted_to_everything_withholds_nothing() -> None:
    found = trained_on(DATA, everything_to_learn_from(SPLIT))
    assert found.withholds_nothing
    assert not trained_on(DATA, SPLIT).withholds_nothing
    assert len(found.learned) == len(SPLIT.events)


def test_the_same_ids_are_known_again_among_other_users_and_items() -> None:
    """A file with fewer users and items numbers them otherwise."""
    found = trained_on(DATA, SPLIT)
    kept = slice(7, None)
    fewer = type(DATA)(DATA.item_ids, DATA.user_ids[kept], DATA.features, DATA.events, DATA.neighbors, "")
    learned = SPLIT.events.where(SPLIT.train_E)
    of_kept = learned.users_E >= 7
    each = overlap(found, fewer, learned.users_E[of_kept] - 7, learned.items_E[of_kept])
    assert each.num_learned == each.num_answers == of_kept.sum()
