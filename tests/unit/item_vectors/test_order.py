"""Of two outputs of an item one counts, whatever the order in which they are read."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest

from worker.item_vectors.order import NO_REVISION, Version, is_newer
from worker.item_vectors.table import Astray, ItemTable, ItemUpdate


def test_within_a_partition_the_offset_says_it() -> None:
    assert is_newer(Version(5, 0, 1, 1), Version(4, 0, 9, 9))
    assert is_newer(Version(5, 0, 1, 1), Version(5, 0, 9, 9))
    assert not is_newer(Version(4, 0, 9, 9), Version(5, 0, 1, 1))
    assert is_newer(Version(None, 0), Version(5, 0))


def test_across_partitions_the_revision_and_then_the_time_say_it() -> None:
    assert is_newer(Version(1, 1, 3, 10), Version(99, 0, 2, 20))
    assert not is_newer(Version(99, 0, 2, 20), Version(1, 1, 3, 10))
    assert is_newer(Version(1, 1, 3, 11), Version(99, 0, 3, 10))


def test_a_deletion_counts_by_its_time() -> None:
    vector, deletion = Version(99, 0, 7, 10), Version(1, 1, NO_REVISION, 11)
    assert is_newer(deletion, vector)
    assert not is_newer(vector, deletion)
    assert is_newer(Version(1, 0, 1, 12), deletion)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_table_ends_the_same_whatever_the_order(order: tuple[Any, ...]) -> None:
    vectors = [np.full(2, n, "f4") for n in range(3)]
    updates = [
        ItemUpdate("a", 50, vectors[0], 0, 1, 10),
        ItemUpdate("a", 2, vectors[1], 1, 2, 11),
        ItemUpdate("b", 7, vectors[2], 0, 1, 10),
    ]
    table = ItemTable(2, "float32", "cpu")
    for number in order:
        table.apply([updates[number]])
    with table.reading() as table_RD:
        assert table_RD[table.row("a")].tolist() == [1.0, 1.0]
    assert table.num_astray == 1
    assert table.astray[0].item_id == "a"


def test_an_item_deleted_in_another_partition_is_gone() -> None:
    table = ItemTable(2, "float32", "cpu")
    table.apply([ItemUpdate("a", 50, np.ones(2, "f4"), 0, 5, 10)])
    table.apply([ItemUpdate("a", 3, None, 1, made_at_ms=11)])
    assert "a" not in table
    assert list(table.astray) == [Astray("a", 0, 1)]
