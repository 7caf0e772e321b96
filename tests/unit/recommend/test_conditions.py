"""What a condition on attributes is, and what it holds for."""

from __future__ import annotations

from typing import Any

import pytest

from worker.__main__ import main
from worker.errors import ConfigError
from worker.recommend.conditions import Condition, condition


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("price < 40", ("price", "<", 40.0)),
        ("price<=-1.5e3", ("price", "<=", -1500.0)),
        ("price>.5", ("price", ">", 0.5)),
        ("category = kitchen", ("category", "=", "kitchen")),
        ("category=garden tools ", ("category", "=", "garden tools")),
        ("name != a=b", ("name", "!=", "a=b")),
        ('size = "40"', ("size", "=", "40")),
        ('size = ""', ("size", "=", "")),
        ("stock = true", ("stock", "=", True)),
        ('stock = "true"', ("stock", "=", "true")),
        ("net weight >= 2", ("net weight", ">=", 2.0)),
        ("größe = groß", ("größe", "=", "groß")),
    ],
)
def test_conditions_are_read_as_they_are_written(text: str, expected: tuple[Any, ...]) -> None:
    assert condition(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("price", "should be an attribute, one of"),
        ("< 40", "should be an attribute"),
        ("", "should be an attribute"),
        ("price <", "the value is missing"),
        ("price = ", "the value is missing"),
        ("price < cheap", "< compares numbers, and cheap is none"),
        ('price >= "40"', ">= compares numbers"),
        ("price > true", "> compares numbers"),
        ("p" * 300 + " = 1", "no attribute has a name of more than"),
    ],
)
def test_what_is_no_condition_is_said(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        condition(text)
    assert said in str(raised.value)
    assert str(raised.value).startswith("--where ")


@pytest.mark.parametrize(
    ("operator", "value", "found", "holds"),
    [
        ("=", 40.0, 40, True),
        ("=", "40", 40, False),
        ("=", 1.0, True, False),
        ("=", True, 1, False),
        ("=", "a", ["a", "b"], True),
        ("!=", "a", ["a", "b"], False),
        ("!=", "c", ["a", "b"], True),
        ("!=", "c", None, False),
        ("<", 40.0, 39, True),
        ("<", 40.0, "39", False),
        ("<", 40.0, True, False),
        (">=", 40.0, 40.0, True),
    ],
)
def test_an_attribute_that_is_missing_or_of_another_type_is_no_answer(
    operator: Any, value: Any, found: Any, holds: bool
) -> None:
    assert Condition("x", operator, value).holds({} if found is None else {"x": found}) is holds


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--where", "price < 4"], "name it with --index"),
        (["--index", "pgvector", "--among", "text"], "does not go together with --among"),
        (["--index", "pgvector", "--save", "x", "--lacking", "text"], "with --save, --lacking: leave them out"),
        (["--index", "pgvector", "--where", "price"], "--where 'price': should be an attribute"),
        (["--index", "pgvector"], "sink.url is not set"),
    ],
)
def test_flags_that_make_no_sense_together_are_named(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recommend", "--like", "a", *words]) == 2
    assert said in capsys.readouterr().err
