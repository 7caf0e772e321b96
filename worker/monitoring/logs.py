"""Log set-up: one line per record on stderr, as JSON for machines or as text for people.

A log call names what was being done: `log.info("…", extra={"action": "commit", "partition": 3})`. Whatever
`extra` holds becomes a field. Binary values and arrays appear as their type and size only, so that no payload
gets into a log.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from enum import Enum
from numbers import Integral, Real
from pathlib import PurePath
from types import TracebackType
from typing import Any, Literal

from worker.printable import printable

DEFAULT_ACTION = "log"
CLIENT_LOGGER = "kafka"
CLIENT_LOOP_LOGGER = "kafka.net.selector"
"""Warns of every step that takes 0.1 s, which any pause of a busy machine does, and each time in other words."""
REPEAT_WINDOW_S = 10.0

_MAX_CHARS, _MAX_TRACE_CHARS, _MAX_ENTRIES, _MAX_DEPTH = 4_000, 20_000, 50, 4
_MAX_KINDS = 256
_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "action"}
_FIELDS = frozenset({"time", "level", "logger", "action", "message", "exception"})
_AMBIGUOUS = re.compile(r'[\s="]|^$')
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|\d+")


def configure(level: str, format: Literal["auto", "json", "text"]) -> None:
    """Send all logging, warnings and uncaught exceptions to stderr, one line each; `auto` is text on a terminal.

    The Kafka client stays at WARNING whatever `level` is: below that it logs per request, and above that some
    of its faults leave no trace at all. May be called again; the last call holds.
    """
    handler = _LineHandler(sys.stderr)
    is_text = format == "text" or (format == "auto" and sys.stderr.isatty())
    handler.setFormatter(TextFormatter() if is_text else JsonFormatter())
    handler.addFilter(RepeatFilter(CLIENT_LOGGER, REPEAT_WINDOW_S))
    root = logging.getLogger()
    for previous in [known for known in root.handlers if isinstance(known, _LineHandler)]:
        root.removeHandler(previous)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.getLogger(CLIENT_LOGGER).setLevel(logging.WARNING)
    logging.getLogger(CLIENT_LOOP_LOGGER).setLevel(logging.ERROR)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_thread_death
    sys.unraisablehook = _log_ignored


class _LineHandler(logging.StreamHandler[Any]):
    """The handler that `configure` owns, and replaces when it is called again."""


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time, level, logger, action, message, the extras, `exception`.

    The output is ASCII, so that no character of a message can break a line or a terminal.
    """

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "action": _text(getattr(record, "action", DEFAULT_ACTION)),
            "message": message(record),
            **extras(record),
        }
        if record.exc_info and record.exc_info[1]:
            fields["exception"] = _clip("".join(traceback.format_exception(record.exc_info[1])), _MAX_TRACE_CHARS)
        return json.dumps(fields)


class TextFormatter(logging.Formatter):
    """`TIME LEVEL logger [action] message key=value …`, with all that drives a terminal escaped.

    An exception is shortened to its type, its message and the calls that led to it.
    """

    def format(self, record: logging.LogRecord) -> str:
        action = _text(getattr(record, "action", DEFAULT_ACTION))
        words = [
            timestamp(record.created),
            f"{record.levelname:<7}",
            record.name,
            f"[{action}]",
            message(record),
        ]
        words += [f"{name}={_quote(value)}" for name, value in extras(record).items()]
        if record.exc_info and record.exc_info[1]:
            words.append(f"exception={_clip(call_path(record.exc_info[1]), _MAX_TRACE_CHARS)}")
        return printable(" ".join(words))


class RepeatFilter(logging.Filter):
    """Lets one record of a kind through per window; the next one says how many were held back: `suppressed`.

    Two records are of a kind when logger and message are equal but for numbers: a client that cannot connect
    repeats itself with another port or back-off, while another cause is another message and always gets
    through. Only records of `logger` and its children are looked at. Time is the record's own.
    """

    def __init__(self, logger: str, window_s: float) -> None:
        super().__init__(logger)
        self._window_s = window_s
        self._lock = threading.Lock()
        self._last: dict[tuple[str, str], float] = {}
        self._held: Counter[tuple[str, str]] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        if not super().filter(record):
            return True  # another logger's: none of our business
        kind = record.name, _NUMBER.sub("#", message(record))
        with self._lock:
            age = record.created - self._last.get(kind, -math.inf)
            if 0 <= age < self._window_s:  # below 0 the clock was set back: do not wait until it has caught up
                self._held[kind] += 1
                return False
            self._remember(kind, record.created)
            held = self._held.pop(kind, 0)
        if held:
            record.suppressed = held
        return True

    def _remember(self, kind: tuple[str, str], now: float) -> None:
        self._last.pop(kind, None)
        self._last[kind] = now
        if len(self._last) > _MAX_KINDS:
            oldest = next(iter(self._last))
            del self._last[oldest]
            self._held.pop(oldest, None)


def timestamp(seconds: float) -> str:
    """RFC 3339, UTC, milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def message(record: logging.LogRecord) -> str:
    """The record's message; a template that its arguments do not fit is shown as it is."""
    try:
        return _clip(record.getMessage())
    except Exception:
        return _clip(f"{_text(record.msg)} (with arguments that do not fit)")


def extras(record: logging.LogRecord) -> dict[str, Any]:
    """Fields that the call passed as `extra`, as JSON values. A name that is taken gets an underscore."""
    return {
        f"{name}_" if name in _FIELDS else str(name): plain(value)
        for name, value in vars(record).items()
        if name not in _ATTRIBUTES
    }


def plain(value: object, depth: int = _MAX_DEPTH) -> Any:
    """`value` as JSON can hold it: bounded, and without the contents of anything binary or unknown."""
    try:
        return _plain(value, depth)
    except Exception:
        return f"<{type(value).__name__}>"


def _plain(value: object, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return _plain(value.value, depth)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        return number if math.isfinite(number) else str(number)
    if isinstance(value, str):
        return _clip(str(value))
    if isinstance(value, (PurePath, date, BaseException)):
        return _clip(str(value) or type(value).__name__)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    if isinstance(value, (Mapping, list, tuple, set, frozenset)):
        return _plain_container(value, depth)
    return f"<{type(value).__name__}>"


def _plain_container(
    value: Mapping[Any, Any] | list[Any] | tuple[Any, ...] | set[Any] | frozenset[Any], depth: int
) -> Any:
    if depth == 0 or len(value) > _MAX_ENTRIES:
        return f"<{type(value).__name__} of {len(value)}>"
    if isinstance(value, Mapping):
        return {_text(key): plain(entry, depth - 1) for key, entry in value.items()}
    return [plain(entry, depth - 1) for entry in value]


def call_path(error: BaseException) -> str:
    """`Type: message | file:line function > …`, outermost call first, then the errors that led to it."""
    return " <- ".join(f"{_summary(link)} | {_calls(link.__traceback__)}" for link in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _summary(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip()


def _calls(trace: TracebackType | None) -> str:
    frames = traceback.extract_tb(trace)
    return " > ".join(f"{PurePath(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)


def _text(value: object) -> str:
    shown = plain(value, 0)
    return shown if isinstance(shown, str) else json.dumps(shown)


def _clip(text: str, limit: int = _MAX_CHARS) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit} more characters)"


def _quote(value: object) -> str:
    if isinstance(value, str) and not _AMBIGUOUS.search(value):
        return value
    return json.dumps(value, ensure_ascii=False)


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger("worker").critical("uncaught exception", exc_info=(kind, error, trace), extra={"action": "crash"})


def _log_thread_death(death: threading.ExceptHookArgs) -> None:
    if death.exc_value is None:
        return
    name = death.thread.name if death.thread else "?"
    logging.getLogger("worker").critical(
        "a thread died of an uncaught exception",
        exc_info=(death.exc_type, death.exc_value, death.exc_traceback),
        extra={"action": "crash", "thread_name": name},
    )


def _log_ignored(ignored: sys.UnraisableHookArgs) -> None:
    """Faults in finalizers and exit handlers, which Python goes on after."""
    if ignored.exc_value is not None:
        logging.getLogger("worker").warning(
            "%s",
            ignored.err_msg or "exception ignored",
            exc_info=(ignored.exc_type, ignored.exc_value, ignored.exc_traceback),
            extra={"action": "ignored"},
        )
