"""What is said of refused records: enough to act on, and no more lines than reasons and minutes."""

from __future__ import annotations

import pytest

from schemas import Reason
from tests.fakes import FakeRecord
from worker.errors import RefusedError
from worker.monitoring.refusals import DETAIL_CHARS, RefusalLog, check_refused
from worker.records import Rejection


def refused(reason: Reason, offset: int, detail: str = "why") -> Rejection:
    return Rejection(FakeRecord("items", 3, offset), reason, "decode", detail)


def test_a_reason_is_told_at_once_and_then_once_a_minute_with_the_last_place() -> None:
    log, lines = RefusalLog(), []
    for second in range(1_700):
        log.add([refused(Reason.WRONG_SHAPE, second, f"{second} dims")])
        lines += log.due(float(second))
    assert len(lines) == 1_700 // 60 + 1
    assert lines[0].text == "refused as wrong_shape: 1 record at items/3 offset 0: 0 dims"
    assert lines[1].text == "refused as wrong_shape: 60 records, the last one at items/3 offset 60: 60 dims"
    lines += log.due(0.0, all_of_them=True)
    assert sum(line.num_records for line in lines) == 1_700


def test_each_reason_has_lines_of_its_own() -> None:
    log = RefusalLog()
    log.add([refused(Reason.WRONG_SHAPE, 1), refused(Reason.NOT_MSGPACK, 2), refused(Reason.WRONG_SHAPE, 3)])
    assert [(line.reason, line.num_records, line.offset) for line in log.due(0)] == [
        ("wrong_shape", 2, 3),
        ("not_msgpack", 1, 2),
    ]
    assert log.due(1) == []


def test_what_a_stranger_wrote_is_bounded_and_drives_no_terminal() -> None:
    log = RefusalLog()
    log.add([refused(Reason.INVALID_FIELD, 1, "\x1b[31m\n\u202e" + "x" * 10_000)])
    (line,) = log.due(0)
    assert line.text.isprintable()
    assert len(line.detail) < DETAIL_CHARS + 100


@pytest.mark.parametrize(
    ("num_refused", "num_all", "max_share", "fails"),
    [
        (0, 0, 0.0, False),
        (0, 10, 0.0, False),
        (1, 10, 0.0, True),
        (5, 10, 0.5, False),
        (6, 10, 0.5, True),
        (10, 10, 0.5, True),
        (10, 10, 1.0, True),
        (9, 10, 1.0, False),
        (1, 1, 1.0, True),
    ],
)
def test_a_run_fails_when_all_or_too_much_was_refused(
    num_refused: int, num_all: int, max_share: float, fails: bool
) -> None:
    if not fails:
        check_refused("items", {"wrong_shape": num_refused}, num_all, max_share)
        return
    with pytest.raises(RefusedError) as raised:
        check_refused("items", {"no_modality": 0, "wrong_shape": num_refused}, num_all, max_share, "look there")
    said = raised.value.one_line()
    assert said.startswith(f"{num_refused} of {num_all} items were refused (")
    assert said.endswith(f"wrong_shape {num_refused}; look there")
    assert "no_modality" not in said
    assert "--max-refused" in said
