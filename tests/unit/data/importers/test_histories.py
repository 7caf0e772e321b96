"""Tables with a question a row: the questions, and each user's line put together of rows that overlap."""

import json
from pathlib import Path
from typing import Any

import pytest

from worker.data.files import read_events
from worker.data.importers import save
from worker.data.importers.histories import HistoryRows, import_questions
from worker.data.question_file import Question, read_questions
from worker.errors import ConfigError, DataError


def imported(tmp_path: Path, text: str, name: str = "rows.csv", **columns: Any) -> Any:
    (tmp_path / name).write_text(text)
    summary = save(import_questions([tmp_path / name], HistoryRows(**columns), "view"), tmp_path / "out")
    lines: dict[str, list[str]] = {}
    for event in sorted(read_events(tmp_path / "out/events.msgpack"), key=lambda event: event.event_time_ms):
        lines.setdefault(event.user_id, []).append(event.item_id)
    return summary, list(read_questions(tmp_path / "out/questions.jsonl")), lines


def test_rows_of_a_user_that_overlap_are_one_line(tmp_path: Path) -> None:
    rows = "user_id,history,target\na,1 2,3\nb,9,8\na,1 2 3,4\na,3 4,5\na,7,6\n"
    summary, questions, lines = imported(tmp_path, rows)
    assert lines == {"a": ["1", "2", "3", "4", "5", "7", "6"], "b": ["9", "8"]}
    assert questions[0] == Question("a", ("1", "2"), ("3",))
    assert summary.num_questions == len(questions) == 5
    assert "5 questions" in str(summary)


def test_an_item_that_comes_again_stays(tmp_path: Path) -> None:
    _, questions, lines = imported(tmp_path, "user_id,history,target\na,1 2 2 2,1\na,2 2 1,2\n")
    assert lines == {"a": ["1", "2", "2", "2", "1", "2"]}
    assert questions[0].history == ("1", "2", "2", "2")


def test_lists_of_lines_of_json_and_other_columns_and_separators(tmp_path: Path) -> None:
    rows = json.dumps({"u": 1, "h": [4, 5], "t": 6}) + "\n" + json.dumps({"u": 2, "h": [], "t": [7, 8]}) + "\n"
    columns = {"user_column": "u", "history_column": "h", "target_column": "t"}
    _, questions, _ = imported(tmp_path, rows, "rows.jsonl", **columns)
    assert questions == [Question("1", ("4", "5"), ("6",)), Question("2", (), ("7", "8"))]
    _, questions, _ = imported(tmp_path, "u,h,t\n1,4|5,6\n", **columns, separator="|")
    assert questions == [Question("1", ("4", "5"), ("6",))]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ("user_id,history,target\na,1,\n", "row 1, column target: is missing"),
        ("user_id,history,target\n,1,2\n", "row 1, column user_id: is missing"),
        ("user_id,history\na,1\n", "there is no column 'target'"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, rows: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        imported(tmp_path, rows)


def test_the_kind_of_a_table_is_told_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"should end in \.csv"):
        imported(tmp_path, "", "rows.txt")


@pytest.mark.parametrize(
    "line", ["no json", "[]", '{"user_id": "a", "history": "1 2", "relevant": ["3"]}',
             '{"user_id": "a", "history": [1], "relevant": ["3"]}', '{"user_id": "a", "history": [], "relevant": []}'],
)  # fmt: skip
def test_a_line_that_is_no_question_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('\n{"user_id": "a", "history": ["1"], "relevant": ["3"]}\n' + line)
    with pytest.raises(DataError, match="line 3"):
        list(read_questions(path))
