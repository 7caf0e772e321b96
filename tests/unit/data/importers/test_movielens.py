from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from worker.data.importers.arrays import ItemArrays
from worker.data.importers.movielens import MovieLens
from worker.errors import ConfigError, DataError

RATINGS = "userId,movieId,rating,timestamp\n1,10,4.0,100\n1,20,2.0,101\n2,10,3.5,102\n"
MOVIES = 'movieId,title,genres\n10,"Great, The (1999)",Drama\n20,Small (2000),Comedy|Drama\n'


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "ratings.csv").write_text(RATINGS)
    (tmp_path / "movies.csv").write_text(MOVIES)
    return tmp_path / "ratings.csv", tmp_path / "movies.csv"


def test_films_are_items_and_ratings_events(files: tuple[Path, Path]) -> None:
    found = MovieLens(*files).imported()
    assert [(each.item.item_id, each.title) for each in found.items] == [
        ("10", "Great, The (1999)"),
        ("20", "Small (2000)"),
    ]
    assert [
        (event.user_id, event.item_id, event.event_type, event.value, event.event_time_ms) for event in found.events
    ] == [("1", "10", "like", 4.0, 100_000), ("1", "20", "dislike", 2.0, 101_000), ("2", "10", "rate", 3.5, 102_000)]


def test_thresholds_change_the_types_and_not_the_ids(files: tuple[Path, Path]) -> None:
    default, other = (
        list(MovieLens(*files, **options).imported().events) for options in ({}, {"like_from": 3.5, "dislike_to": 1.0})
    )
    assert [event.event_type for event in other] == ["like", "rate", "like"]
    assert [event.event_id for event in other] == [event.event_id for event in default]
    assert len({event.event_id for event in default}) == 3


def test_thresholds_that_cross_are_refused(files: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="--dislike-to 4 must be lower than --like-from 4"):
        MovieLens(*files, dislike_to=4.0)


def test_the_older_sets_have_other_files(tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").write_text("1::10::5::978300760\n")
    (tmp_path / "movies.dat").write_bytes("10::Misérables, Les (1995)::Drama|Musical\n".encode("latin-1"))
    found = MovieLens(tmp_path / "ratings.dat", tmp_path / "movies.dat").imported()
    assert [each.title for each in found.items] == ["Misérables, Les (1995)"]
    assert [event.event_time_ms for event in found.events] == [978_300_760_000]


def test_features_are_joined_by_id(files: tuple[Path, Path]) -> None:
    arrays = ItemArrays("f.npz", ["20", "10"], {"text": np.array([[2.0], [1.0]])}, {}, {"cold": ["20"]})
    found = MovieLens(*files, features=arrays, encoders={"text": "tf-idf"}).imported()
    assert [each.item.features["text"].to_numpy().tolist() for each in found.items] == [[1.0], [2.0]]
    assert found.lists == {"cold": ["20"]}


def test_features_of_other_films_are_an_error(files: tuple[Path, Path]) -> None:
    arrays = ItemArrays("f.npz", ["10", "77"], {"text": np.ones((2, 1))}, {})
    with pytest.raises(DataError, match=r"f\.npz: 1 of its items are not in .*movies\.csv, among them '77'"):
        list(MovieLens(*files, features=arrays).imported().items)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("1,10,,5", "row 4, column rating: is missing"),
        ("1,10,good,5", "row 4, column rating: should be a number, got 'good'"),
        (",10,4,5", "row 4, column userId: is missing"),
        ("1,10,4", "row 4, column timestamp: is missing"),
    ],
)
def test_a_bad_row_is_named(files: tuple[Path, Path], row: str, problem: str) -> None:
    files[0].write_text(RATINGS + row + "\n")
    with pytest.raises(DataError, match=problem):
        list(MovieLens(*files).imported().events)
    bad: list[DataError] = []
    assert len(list(MovieLens(*files).imported(bad.append).events)) == 3
    assert problem in str(bad[0])
