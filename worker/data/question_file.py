"""Questions that somebody gives, one a line: whose they are, what came before, and what is to be found.

    {"user_id": "A3", "history": ["17", "4"], "relevant": ["9"]}

The history is all that is known when the question is asked, oldest first; an item may be in it more than once. `import
questions` writes such files, `evaluate --questions` reads them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from worker.data.files import read_text, replaced
from worker.errors import DataError
from worker.json_text import read_json


@dataclass(frozen=True, slots=True)
class Question:
    """One line."""

    user_id: str
    history: tuple[str, ...]
    relevant: tuple[str, ...]
    """At least one."""


def read_questions(path: Path) -> Iterator[Question]:
    """The questions of a file. Raises `DataError`, naming the line, for one that is none."""
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            fields = read_json(line)
            user_id, history, relevant = (fields[name] for name in ("user_id", "history", "relevant"))
        except (ValueError, TypeError, KeyError):
            raise DataError(
                f"{path}: line {number}: should be a JSON object with user_id, history and relevant"
            ) from None
        for name, ids in (("history", history), ("relevant", relevant)):
            if not isinstance(ids, list) or not all(isinstance(each, str) and each for each in ids):
                raise DataError(f"{path}: line {number}: {name} should be a list of item ids, as text")
        if not isinstance(user_id, str) or not relevant:
            raise DataError(f"{path}: line {number}: should name a user, and in relevant at least one item")
        yield Question(user_id, tuple(history), tuple(relevant))


def write_questions(path: Path, questions: Iterable[Question]) -> int:
    """Write them. Returns how many there are."""
    lines = [json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in questions]
    with replaced(path) as file:
        file.write("".join(lines).encode())
    return len(lines)
