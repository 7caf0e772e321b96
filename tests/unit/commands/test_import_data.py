"""`align-worker import`, from the command line to the dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worker.__main__ import main
from worker.data import load_dataset
from worker.data.lists import read_item_list, read_titles

FILMS = "movieId,title\n1,One\n2,Two\n3,Three\n"
RATINGS = "userId,movieId,rating,timestamp\n7,1,5,10\n7,2,1,11\n8,3,3,12\n"


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    code = main(["import", *map(str, argv)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_from_ratings_titles_and_vectors_to_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "movies.csv").write_text(FILMS)
    (tmp_path / "ratings.csv").write_text(RATINGS)
    ids = np.array([1, 2, 3])
    np.savez(tmp_path / "f.npz", item_id=ids, text=np.eye(3), has_text=ids < 3, cold_test=ids == 2)
    out = tmp_path / "out"
    code, shown, _ = run(
        capsys, "movielens", "--ratings", tmp_path / "ratings.csv", "--items", tmp_path / "movies.csv",
        "--features", tmp_path / "f.npz", "--out", out, "--compress", "zst", "--json",
    )  # fmt: skip
    assert code == 0
    assert json.loads(shown) == {
        "files": [
            str(out / name) for name in ("items.msgpack.zst", "events.msgpack.zst", "titles.csv", "cold_test.txt")
        ],
        "num_items": 3,
        "items_with": {"text": 2},
        "num_events": 3,
        "events_of_type": {"like": 1, "dislike": 1, "rate": 1},
        "num_users": 2,
        "lists": {"cold_test": 1},
        "num_bad_rows": 0,
    }
    weights = {"like": 1.0, "dislike": -0.5}
    dataset = load_dataset([out / "items.msgpack.zst"], [out / "events.msgpack.zst"], weights).dataset
    assert (dataset.item_ids, dataset.user_ids) == (["1", "2", "3"], ["7"])
    assert dataset.events.weights_E.tolist() == [1.0, -0.5]
    assert read_item_list(out / "cold_test.txt", dataset.item_ids).tolist() == [False, True, False]
    assert read_titles(out / "titles.csv") == {"1": "One", "2": "Two", "3": "Three"}


def test_importing_twice_makes_the_same_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "ab":
        run(capsys, "synthetic", "--items", 30, "--users", 5, "--events", 100, "--out", tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_the_summary_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "events.csv").write_text("user_id,item_id,event_time_ms\nu,i,5\nv,i,6\n")
    code, shown, _ = run(
        capsys, "csv", "--events", tmp_path / "events.csv", "--event-type", "view", "--out", tmp_path / "out"
    )
    assert code == 0
    assert shown.splitlines() == [
        "2 events of 2 users (view 2)",
        f"written: {tmp_path / 'out' / 'events.msgpack'}",
        f"to their topics: align-worker send {tmp_path / 'out' / 'events.msgpack'}",
    ]


def test_arrays_of_vectors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "text.npy", np.eye(2))
    (tmp_path / "ids.txt").write_text("a\nb\n")
    code, _, _ = run(
        capsys, "npy", "--ids", tmp_path / "ids.txt", "--vectors", f"text={tmp_path / 'text.npy'}",
        "--encoder", "text=minilm", "--dtype", "f4", "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0
    dataset = load_dataset([tmp_path / "out" / "items.msgpack"], [], {}).dataset
    assert dataset.features["text"].encoder == "minilm"
    assert dataset.features["text"].vectors_NK.tolist() == [[1, 0], [0, 1]]


def test_bad_rows_end_the_import_or_are_left_out_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "events.jsonl", tmp_path / "out"
    row = {"user_id": "u", "item_id": "i", "event_type": "view", "event_time_ms": 5}
    path.write_text("\n".join(map(json.dumps, [row, {**row, "event_time_ms": None}])))
    problem = f"{path}: row 2, column event_time_ms: is missing"
    code, _, errors = run(capsys, "jsonl", "--events", path, "--out", out)
    assert (code, errors.splitlines()[-1]) == (10, f"align-worker: {problem}")
    assert not list(out.iterdir())
    code, shown, errors = run(capsys, "jsonl", "--events", path, "--out", out, "--skip-bad-rows")
    assert code == 0
    assert f"left out: {problem}" in errors
    assert "1 bad rows left out" in shown


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["parquet"], "import parquet: give --items, --events or both"),
        (["npy"], "give either --archive, or --ids and --vectors"),
        (["npy", "--archive", "a.npz", "--ids", "i.txt"], "give either --archive, or --ids and --vectors"),
        (["csv", "--events", "e", "--event-column", "who=x"], "--event-column: there is no field 'who'; there are"),
        (["jsonl", "--items", "i", "--vectors", "text"], "--vectors 'text': expected NAME=VALUE"),
        (["synthetic", "--max-vectors", "smell=2"], "no modality 'smell'"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    argv: list[Any], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, errors = run(capsys, *argv, "--out", tmp_path)
    assert code == 2
    assert problem in errors


def test_nothing_to_import_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "events.jsonl").write_text("")
    code, _, errors = run(capsys, "jsonl", "--events", tmp_path / "events.jsonl", "--out", tmp_path / "out")
    assert code == 10
    assert "there was nothing to import" in errors


@pytest.mark.parametrize(
    ("num_good", "num_bad", "flags", "code"),
    [
        (0, 5, (), 13),
        (0, 5, ("--max-refused", 1), 13),
        (4, 5, (), 13),
        (5, 5, (), 0),
        (4, 5, ("--max-refused", 0.6), 0),
    ],
)
def test_it_fails_when_all_or_too_many_rows_are_left_out(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    num_good: int,
    num_bad: int,
    flags: tuple[object, ...],
    code: int,
) -> None:
    rows = [f"u{number},i,{number}" for number in range(num_good)] + [f"u,i,never {n}" for n in range(num_bad)]
    (tmp_path / "events.csv").write_text("\n".join(["user_id,item_id,event_time_ms", *rows]))
    given, _, said = run(
        capsys, "csv", "--events", tmp_path / "events.csv", "--event-type", "view", "--out", tmp_path / "out",
        "--skip-bad-rows", *flags,
    )  # fmt: skip
    assert given == code, said
    assert (f"{num_bad} of {num_good + num_bad} rows were refused" in said) is bool(code)


def test_files_without_a_row_are_told_from_files_with_bad_rows_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "events.csv").write_text("user_id,item_id,event_time_ms\n")
    code, _, said = run(
        capsys, "csv", "--events", tmp_path / "events.csv", "--event-type", "view", "--out", tmp_path / "out",
        "--skip-bad-rows",
    )  # fmt: skip
    assert (code, "there was nothing to import" in said) == (10, True)
