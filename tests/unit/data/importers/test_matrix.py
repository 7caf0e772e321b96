"""Matrices of users and items, as scipy.sparse writes them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worker.__main__ import main
from worker.data.files import read_events
from worker.data.importers.matrix import matrix_events, read_matrix
from worker.errors import DataError

DENSE = np.array([[1, 0, 2, 0], [0, 0, 0, 0], [0, 1, 0, 1]])
ENTRIES = [("0", "0"), ("0", "2"), ("2", "1"), ("2", "3")]


def written(path: Path, form: str = "csr", **changed: Any) -> Path:
    """What scipy.sparse.save_npz writes, written out."""
    rows, columns = np.nonzero(DENSE)
    arrays: dict[str, Any] = {"format": form.encode(), "shape": np.array(DENSE.shape), "data": DENSE[rows, columns]}
    if form == "coo":
        arrays |= {"row": rows.astype(np.int32), "col": columns.astype(np.int32)}
    elif form == "csr":
        arrays |= {"indices": columns, "indptr": np.concatenate([[0], np.cumsum((DENSE != 0).sum(1))])}
    else:
        rows, columns = np.nonzero(DENSE.T)
        arrays["data"] = DENSE.T[rows, columns]
        arrays |= {"indices": columns, "indptr": np.concatenate([[0], np.cumsum((DENSE != 0).sum(0))])}
    np.savez(path, **(arrays | changed))
    return path


@pytest.mark.parametrize("form", ["csr", "csc", "coo"])
def test_each_entry_is_an_event(tmp_path: Path, form: str) -> None:
    events = list(matrix_events(read_matrix(written(tmp_path / "m.npz", form)), None, None, "like"))
    assert [(event.user_id, event.item_id) for event in events] == ENTRIES
    assert {event.event_time_ms for event in events} == {0}
    assert len({event.event_id for event in events}) == len(events)


@pytest.mark.parametrize("form", ["csr", "csc", "coo"])
def test_what_scipy_writes_is_read(tmp_path: Path, form: str) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    sparse.save_npz(tmp_path / "m.npz", getattr(sparse, f"{form}_matrix")(DENSE))
    found = read_matrix(tmp_path / "m.npz")
    assert sorted(zip(found.rows_E.tolist(), found.columns_E.tolist(), strict=True)) == [
        (int(user), int(item)) for user, item in ENTRIES
    ]


def test_zeros_that_are_written_are_no_events(tmp_path: Path) -> None:
    found = read_matrix(written(tmp_path / "m.npz", data=np.array([1, 0, 1, 1])))
    assert len(found.rows_E) == 3


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"format": b"bsr"}, "format 'bsr'"),
        ({"shape": np.array([1, 4])}, "outside its 1 rows"),
        ({"indices": np.array([0, 2, 1, 9])}, "outside"),
        ({"data": np.ones(3)}, "3 values for 4 rows"),
        ({"indptr": np.array([0, 1, 2])}, "values for"),
    ],
)
def test_a_matrix_that_does_not_fit_together_is_refused(tmp_path: Path, changed: Any, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        read_matrix(written(tmp_path / "m.npz", **changed))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="save_npz"):
        read_matrix(path)
    np.savez(path, text=np.zeros(3))
    with pytest.raises(DataError, match="save_npz"):
        read_matrix(path)


def test_matrices_become_files_of_events_with_those_that_are_withheld_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "train.npz")
    written(tmp_path / "test.npz", "coo")
    (tmp_path / "users.txt").write_text("ann\nbob\ncat\n")
    command = ["import", "matrix", "--train", str(tmp_path / "train.npz"), "--test", str(tmp_path / "test.npz"),
               "--event-type", "like", "--out", str(tmp_path / "out")]  # fmt: skip
    assert main([*command, "--user-ids", str(tmp_path / "users.txt")]) == 0
    output = capsys.readouterr()
    assert "4 test events, withheld" in output.out
    assert "times are made up" in output.err
    users = {event.user_id for event in read_events(tmp_path / "out/test_events.msgpack")}
    assert users == {"ann", "cat"}
    assert main([*command, "--item-ids", str(tmp_path / "users.txt")]) == 10
    assert "--item-ids: 3 ids for the 4 of" in capsys.readouterr().err
