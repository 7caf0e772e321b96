import json

import pytest

from worker.errors import DataError
from worker.printable import printable, shortened


@pytest.mark.parametrize(
    "character",
    ["\x00", "\x1b", "\r", "\n", "\t", "\x7f", "\x9b", "\x85", "\u2028", "\u2029", "\u202e", "\u2066", "\u200f",
     "\ufeff", "\ud800", "\U000e0041", "\u00ad"],
    ids=ascii,
)  # fmt: skip
def test_what_drives_a_terminal_or_ends_a_line_is_escaped_as_in_json(character: str) -> None:
    shown = printable(f"a{character}b")
    assert shown.isprintable()
    assert json.loads(f'"{shown}"') == f"a{character}b"


@pytest.mark.parametrize("text", ["plain", "größer", "東京\u3000駅", "می\u200cخواهم", "👩\u200d🚀", "5\u00a0000"])
def test_text_in_any_script_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_what_is_long_is_cut_off() -> None:
    assert shortened("\x1b" + "a" * 300, 10) == "\\u001b" + "a" * 9 + "… (291 more characters)"


def test_an_error_is_one_printable_line() -> None:
    assert DataError("file\x1b[2J\nsays \u202eno").one_line() == "file\\u001b[2J says \\u202eno"
