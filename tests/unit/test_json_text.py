import re
from pathlib import Path

import pytest

from worker.errors import RolloutError
from worker.json_text import read_json
from worker.rollout.health import ProcessHealth
from worker.rollout.plan import Failure, Plan

UNHOLDABLE = {
    "nested": b"[" * 100_000,
    "digits": b"9" * 5_000,
    "latin-1": b'"\xe9"',
    "empty": b"",
    "cut": b'{"a": [1,',
}


@pytest.mark.parametrize("text", UNHOLDABLE.values(), ids=UNHOLDABLE)
def test_whatever_is_wrong_with_it_is_one_kind_of_error(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        read_json(text)


@pytest.mark.parametrize("text", [*UNHOLDABLE.values(), b"[]", b"1"], ids=[*UNHOLDABLE, "list", "number"])
@pytest.mark.parametrize("record", [Plan, Failure, ProcessHealth])
def test_a_record_of_a_stranger_on_the_control_topic_is_refused_by_name(
    record: type[Plan | Failure | ProcessHealth], text: bytes
) -> None:
    with pytest.raises(RolloutError, match="record"):
        record.decode(text)


def test_nobody_reads_json_past_it() -> None:
    """Where a `RecursionError` of the parser is nobody's, a file or a record of a stranger ends the process."""
    worker = Path(__file__).parents[2] / "worker"
    past = {
        str(path.relative_to(worker))
        for path in worker.rglob("*.py")
        if path.name != "json_text.py" and re.search(r"\bjson\.loads?\(", path.read_text())
    }
    assert past == {"kafka/confluent_kafka/statistics.py", "commands/space.py"}  # what was written here
