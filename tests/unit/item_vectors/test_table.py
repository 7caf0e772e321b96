from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.align.users import NO_ROW
from worker.item_vectors.table import ItemTable, ItemUpdate

UPDATES = st.lists(st.tuples(st.sampled_from("abcd"), st.none() | st.integers(0, 9)), max_size=40)


def table(dtype: Any = "float32") -> ItemTable:
    return ItemTable(2, dtype, "cpu")


def update(item_id: str, value: float | None, offset: int | None = None) -> ItemUpdate:
    return ItemUpdate(item_id, offset, None if value is None else np.array([value, 1.0], np.float32))


def vectors(made: ItemTable, *ids: str) -> list[float | None]:
    with made.reading() as table_RD:
        return [None if (row := made.row(each)) == NO_ROW else float(table_RD[row, 0]) for each in ids]


def test_items_appear_change_and_go() -> None:
    made = table()
    assert made.apply([update("a", 1.0), update("b", 2.0)]) == (["a", "b"], [])
    assert made.apply([update("a", 3.0), update("b", None), update("c", 4.0)]) == (["c"], ["a", "b"])
    assert vectors(made, "a", "b", "c", "d") == [3.0, None, 4.0, None]
    assert (made.num_items, "a" in made, "b" in made) == (2, True, False)
    assert made.apply([update("b", 5.0)]) == (["b"], [])


@pytest.mark.parametrize("older", [7.0, None])
def test_what_comes_after_something_newer_is_passed_over(older: float | None) -> None:
    made = table()
    made.apply([update("a", 1.0, offset=10)])
    assert made.apply([update("a", older, offset=9)]) == ([], [])
    assert vectors(made, "a") == [1.0]
    made.apply([update("a", None, offset=11)])
    assert made.apply([update("a", older, offset=10)]) == ([], [])
    assert vectors(made, "a") == [None]


@pytest.mark.parametrize(("dtype", "num_bytes"), [("float16", 2), ("bfloat16", 2), ("float32", 4)])
def test_the_table_grows_and_keeps_what_it_has(dtype: str, num_bytes: int) -> None:
    made = table(dtype)
    for start in range(0, 5_000, 700):
        made.apply([update(f"i{n}", n % 100) for n in range(start, start + 700)])
    assert vectors(made, "i0", "i57", "i4999") == [0.0, 57.0, 99.0]
    assert made.num_bytes() == 8_192 * 2 * num_bytes


@given(UPDATES, st.integers(1, 5))
def test_any_batching_leads_to_the_last_of_each(updates: Any, size: Any) -> None:
    made = table()
    for start in range(0, len(updates), size):
        made.apply([update(*each) for each in updates[start : start + size]])
    last = dict(updates)
    assert vectors(made, *"abcd") == [last.get(each) for each in "abcd"]
    assert made.num_items == sum(value is not None for value in last.values())
    assert made._num_used <= 4, "rows that were given up are used again"
