from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.schemas import strategies
from worker.data.lists import read_item_list, read_titles, write_item_list, write_titles
from worker.errors import DataError

listable_ids = strategies.ids.filter(lambda item_id: not {"\n", "\r"} & set(item_id))


@given(st.dictionaries(listable_ids, st.booleans(), min_size=1, max_size=8))
@settings(deadline=None)
def test_a_list_marks_the_items_that_were_written(tmp_path_factory: pytest.TempPathFactory, listed: Any) -> None:
    path = tmp_path_factory.mktemp("lists") / "cold.txt"
    chosen = [item_id for item_id, is_listed in listed.items() if is_listed]
    assert write_item_list(path, chosen) == len(chosen)
    assert read_item_list(path, list(listed)).tolist() == list(listed.values())


@given(st.dictionaries(strategies.ids, st.text(st.characters(exclude_categories=["Cs"])), max_size=8))
@settings(deadline=None)
def test_titles_come_back(tmp_path_factory: pytest.TempPathFactory, titles: Any) -> None:
    path = tmp_path_factory.mktemp("lists") / "titles.csv"
    assert write_titles(path, titles.items()) == len(titles)
    assert read_titles(path) == titles


def test_lists_may_come_from_other_editors(tmp_path: Path) -> None:
    path = tmp_path / "cold.txt"
    path.write_bytes("﻿a\r\n\r\nc".encode())
    assert read_item_list(path, ["a", "b", "c"]).tolist() == [True, False, True]


def test_titles_may_come_with_other_columns_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "movies.csv"
    path.write_text('genres,title,item_id\nDrama,"Good, Bad",1\n')
    assert read_titles(path) == {"1": "Good, Bad"}


def test_an_id_that_the_catalogue_lacks_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cold.txt"
    path.write_text("a\nnowhere\n")
    with pytest.raises(DataError, match=r"cold\.txt: the catalogue has no item 'nowhere'"):
        read_item_list(path, ["a"])


def test_an_id_that_would_become_two_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'a\\nb' has a line break"):
        write_item_list(tmp_path / "cold.txt", ["a\nb"])


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "titles.csv"
    path.write_text("movieId,title\n1,x\n")
    with pytest.raises(DataError, match="no column 'item_id'"):
        read_titles(path)


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "titles.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not a text file in UTF-8"):
        read_titles(path)
    with pytest.raises(DataError, match="no such file"):
        read_item_list(tmp_path / "none", [])
