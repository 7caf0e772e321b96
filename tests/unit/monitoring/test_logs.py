"""Log lines: one per record, whatever is logged, and never a payload."""

from __future__ import annotations

import json
import logging
import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

from worker.monitoring import logs
from worker.monitoring.logs import JsonFormatter, RepeatFilter, TextFormatter, call_path, extras, plain

EPOCH_2026 = 1_767_225_600.0


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], list[str]]]:
    """Gives what was written to stderr; puts the process's logging back afterwards."""
    root, client, loop = map(logging.getLogger, ("root", "kafka", "kafka.net.selector"))
    handlers, levels = root.handlers[:], (root.level, client.level, loop.level)
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    yield lambda: capsys.readouterr().err.splitlines()
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    client.setLevel(levels[1])
    loop.setLevel(levels[2])
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks


def make_record(
    message: object = "hello", *args: object, logger: str = "worker.test", **extra: Any
) -> logging.LogRecord:
    record = logging.makeLogRecord(
        {
            "name": logger,
            "levelname": "INFO",
            "levelno": logging.INFO,
            "msg": message,
            "args": args,
            "created": EPOCH_2026,
        }
    )
    vars(record).update(extra)
    return record


def as_json(record: logging.LogRecord) -> dict[str, Any]:
    line = JsonFormatter().format(record)
    assert "\n" not in line
    fields: dict[str, Any] = json.loads(line)
    return fields


def make_error() -> ValueError:
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer\nsecond line") from error
    except ValueError as error:
        return error


# What a line holds


def test_a_json_line_has_the_agreed_fields_and_the_extras() -> None:
    record = make_record("committed %d offsets", 3, action="commit", partition=4, took_s=0.25)
    record.created += 0.0426
    assert as_json(record) == {
        "time": "2026-01-01T00:00:00.042Z",
        "level": "info",
        "logger": "worker.test",
        "action": "commit",
        "message": "committed 3 offsets",
        "partition": 4,
        "took_s": 0.25,
    }


def test_a_text_line_reads_from_time_to_extras() -> None:
    record = make_record("committed %d offsets", 3, action="commit", partition=4, why="two words", ok=True)
    assert TextFormatter().format(record) == (
        '2026-01-01T00:00:00.000Z INFO    worker.test [commit] committed 3 offsets partition=4 why="two words" ok=true'
    )


def test_a_library_that_knows_no_action_gets_the_default() -> None:
    assert as_json(make_record())["action"] == "log"
    assert "[log]" in TextFormatter().format(make_record())


def test_an_exception_is_one_field() -> None:
    error = make_error()
    fields = as_json(make_record(exc_info=(type(error), error, error.__traceback__)))
    assert "Traceback" in fields["exception"]
    assert "KeyError: 'inner'" in fields["exception"]
    assert "ValueError: outer\nsecond line" in fields["exception"]


def test_text_shortens_an_exception_to_messages_and_calls() -> None:
    error = make_error()
    line = TextFormatter().format(make_record(exc_info=(type(error), error, error.__traceback__)))
    assert "exception=ValueError: outer\\nsecond line | test_logs.py:" in line
    assert "make_error <- KeyError: 'inner' | test_logs.py:" in line
    assert "\n" not in line


def test_errors_that_cause_each_other_end() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert call_path(first) == "ValueError: first |  <- ValueError: second | "


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
@pytest.mark.parametrize("odd", ["a\nb", "a\r\nb", "a\u2028b", "a\x85b", "a\x00b", "a\x1b[31mb", "a\udc80b"])
def test_no_text_can_break_its_line_or_the_terminal(formatter: logging.Formatter, odd: str) -> None:
    line = formatter.format(make_record(odd, detail=odd, action=odd))
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    line.encode()


# What extras may be


class Colour(Enum):
    RED = "red"


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__


class HostileText(str):
    def __str__(self) -> str:
        raise RuntimeError("no str")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (2**70, 2**70),
        (0.5, 0.5),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (np.int64(7), 7),
        (np.float32(0.5), 0.5),
        (Colour.RED, "red"),
        (Path("/a/b"), "/a/b"),
        (ValueError("why"), "why"),
        (ValueError(), "ValueError"),
        ((1, "a"), [1, "a"]),
        ({"a": {1: 2.5}}, {"a": {"1": 2.5}}),
        (b"secret", "<6 bytes>"),
        (bytearray(3), "<3 bytes>"),
        ({"value": b"secret"}, {"value": "<6 bytes>"}),
        (np.arange(4), "<ndarray>"),
        (SecretStr("secret"), "<SecretStr>"),
        (SimpleNamespace(value="secret"), "<SimpleNamespace>"),
        (Hostile(), "<Hostile>"),
        ([Hostile(), 1], ["<Hostile>", 1]),
        (HostileText("secret"), "<HostileText>"),
        (list(range(51)), "<list of 51>"),
    ],
)
def test_extras_become_json_without_payloads(value: object, shown: object) -> None:
    assert plain(value) == shown
    assert as_json(make_record(extra_field=value))["extra_field"] == shown


def test_nesting_and_length_are_bounded() -> None:
    endless: list[object] = []
    endless.append(endless)
    assert plain(endless) == [[[["<list of 1>"]]]]
    assert len(plain("x" * 10**6)) < 5_000
    assert len(as_json(make_record("x" * 10**6))["message"]) < 5_000


def test_extras_cannot_take_the_place_of_a_field() -> None:
    fields = as_json(make_record(time="never", level="loud", exception="none"))
    assert (fields["time"], fields["time_"]) == ("2026-01-01T00:00:00.000Z", "never")
    assert (fields["level"], fields["level_"]) == ("info", "loud")
    assert (fields.get("exception"), fields["exception_"]) == (None, "none")


@pytest.mark.parametrize(
    "record",
    [
        make_record("%d items", "many"),
        make_record("%s %s", "one"),
        make_record("%(name)s", 3),
        make_record("%s", Hostile()),
        make_record(b"\x00\xff"),
        make_record(None),
        make_record(action=b"\x00"),
        make_record(exc_info=(None, None, None)),
    ],
)
def test_a_wrong_log_call_still_makes_a_line(record: logging.LogRecord) -> None:
    assert as_json(record)["logger"] == "worker.test"
    assert TextFormatter().format(record).startswith("2026-01-01T")


def test_a_template_that_does_not_fit_is_shown_without_its_arguments() -> None:
    assert as_json(make_record("%d items", "secret"))["message"] == "%d items (with arguments that do not fit)"


def test_an_undisturbed_record_has_no_extras() -> None:
    assert extras(make_record()) == {}


# Repeats of the client


def admitted(records: list[logging.LogRecord], window_s: float = 10.0) -> list[logging.LogRecord]:
    repeats = RepeatFilter("kafka", window_s)
    return [record for record in records if repeats.filter(record)]


def client_record(
    at_s: float, message: str = "Connection failed: %s", *args: object, logger: str = "kafka.net.manager"
) -> logging.LogRecord:
    return make_record(message, *args, logger=logger, created=EPOCH_2026 + at_s)


def test_a_repeat_waits_for_the_window_and_says_how_many_were_held_back() -> None:
    shown = admitted([client_record(second, "down") for second in (0, 1, 5, 9.9, 10, 12, 21)])
    assert [(record.created - EPOCH_2026, extras(record)) for record in shown] == [
        (0, {}),
        (10, {"suppressed": 3}),
        (21, {"suppressed": 1}),
    ]


def test_numbers_do_not_make_a_message_new_but_another_cause_does() -> None:
    refused = [client_record(n / 10, "Connection failed: %s", f"{n} ECONNREFUSED (backoff 0.{n} s)") for n in range(50)]
    wrong_password = client_record(5, "Connection failed: %s", "SaslAuthenticationFailedError")
    assert admitted([*refused, wrong_password]) == [refused[0], wrong_password]


def test_loggers_are_counted_apart() -> None:
    records = [client_record(0, "down", logger=name) for name in ("kafka.net", "kafka.cluster", "kafka")]
    assert admitted(records) == records


def test_only_the_client_is_held_back() -> None:
    records = [client_record(0, "down", logger=name) for name in ("worker", "kafkaesque", "root")] * 3
    assert admitted(records) == records


def test_a_clock_that_is_set_back_holds_nothing_back() -> None:
    records = [client_record(second, "down") for second in (0, -3600)]
    assert admitted(records) == records


def test_every_record_is_shown_or_counted() -> None:
    """Under any sequence, admitted + suppressed + still held = logged."""
    dice = random.Random(7)
    times = sorted(dice.uniform(0, 300) for _ in range(2_000))
    records = [client_record(time, dice.choice(["down", "lost", "gone"])) for time in times]
    repeats = RepeatFilter("kafka", 10.0)
    shown = [record for record in records if repeats.filter(record)]
    suppressed = sum(extras(record).get("suppressed", 0) for record in shown)
    assert len(shown) + suppressed + sum(repeats._held.values()) == len(records)
    assert 3 * 30 >= len(shown) >= 3 * 28


def test_messages_that_never_repeat_do_not_fill_the_memory() -> None:
    repeats = RepeatFilter("kafka", 10.0)
    for n in range(2_000):
        for _ in range(2):
            repeats.filter(client_record(0, "-" * n))
    assert len(repeats._last) == len(repeats._held) == 256


def test_what_repeats_is_remembered_longest() -> None:
    repeats = RepeatFilter("kafka", 10.0)
    assert repeats.filter(client_record(0, "down"))
    for n in range(255):
        repeats.filter(client_record(1, "-" * n))
    assert repeats.filter(client_record(11, "down"))
    assert repeats.filter(client_record(11, "new"))
    assert not repeats.filter(client_record(12, "down"))


# The process's logging


@pytest.mark.parametrize("is_terminal", [True, False])
def test_records_are_text_on_a_terminal_and_json_elsewhere_unless_the_format_is_set(
    lines: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    for format in ("auto", "json", "text"):
        logs.configure("info", format)
        logging.getLogger("worker").info("hello")
    is_json = [line.startswith("{") for line in lines()]
    assert is_json == [not is_terminal, True, False]


def test_configure_writes_one_json_line_per_record_to_stderr(lines: Callable[[], list[str]]) -> None:
    logs.configure("info", "json")
    logging.getLogger("worker").info("two\nlines", extra={"action": "start"})
    logging.getLogger("worker").debug("not shown")
    [line] = lines()
    assert json.loads(line)["message"] == "two\nlines"


def test_the_last_configuration_holds(lines: Callable[[], list[str]]) -> None:
    logs.configure("debug", "json")
    logs.configure("warning", "text")
    logging.getLogger("worker").info("not shown")
    logging.getLogger("worker").warning("shown")
    [line] = lines()
    assert line.endswith("WARNING worker [log] shown")


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_the_client_stays_at_warning_whatever_the_level(lines: Callable[[], list[str]], level: str) -> None:
    logs.configure(level, "text")
    logging.getLogger("kafka.net").info("chatter")
    logging.getLogger("kafka.net").warning("the only trace of a fault")
    [line] = lines()
    assert line.endswith("the only trace of a fault")


def test_pauses_of_the_machine_are_no_warnings(lines: Callable[[], list[str]]) -> None:
    logs.configure("debug", "json")
    logging.getLogger("kafka.net.selector").warning("Task <0x7fe8245357d0> ran for 0.101s")
    logging.getLogger("kafka.net.selector").error("IO loop crashed")
    assert [json.loads(line)["message"] for line in lines()] == ["IO loop crashed"]


def test_repeats_of_the_client_are_held_back(lines: Callable[[], list[str]]) -> None:
    logs.configure("info", "text")
    for port in range(50):
        logging.getLogger("kafka.net").error("connection to broker:%d failed", port)
    assert len(lines()) == 1


def test_other_handlers_see_all_that_the_client_says(
    lines: Callable[[], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    """The diagnosis of a failed connection reads the client's log, and must not miss the one line that matters."""
    logs.configure("info", "text")
    for _ in range(5):
        logging.getLogger("kafka.net").error("down")
    assert len(caplog.records) == 5


def test_warnings_become_lines(lines: Callable[[], list[str]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs.configure("info", "json")
        warnings.warn("old name", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)
    [line] = lines()
    assert json.loads(line)["logger"] == "py.warnings"


def test_an_uncaught_exception_is_a_line(lines: Callable[[], list[str]]) -> None:
    logs.configure("info", "json")
    error = make_error()
    sys.excepthook(type(error), error, error.__traceback__)
    [line] = lines()
    assert (json.loads(line)["level"], json.loads(line)["action"]) == ("critical", "crash")
    assert "ValueError: outer" in json.loads(line)["exception"]


def test_the_death_of_a_thread_is_a_line_with_its_name(lines: Callable[[], list[str]]) -> None:
    def die() -> None:
        raise RuntimeError("publish failed")

    logs.configure("info", "json")
    thread = threading.Thread(target=die, name="publish")
    thread.start()
    thread.join()
    [line] = lines()
    assert json.loads(line)["thread_name"] == "publish"
    assert "RuntimeError: publish failed" in json.loads(line)["exception"]


def test_a_fault_in_a_finalizer_is_a_line(lines: Callable[[], list[str]]) -> None:
    class Careless:
        def __del__(self) -> None:
            raise RuntimeError("too late")

    logs.configure("info", "json")
    careless = Careless()
    del careless
    [line] = lines()
    assert json.loads(line)["action"] == "ignored"
    assert "RuntimeError: too late" in json.loads(line)["exception"]
