"""The last warnings of the log, for whoever has the page and not the log."""

from __future__ import annotations

import logging
import re
import threading
from collections import deque

from worker.monitoring.logs import message
from worker.monitoring.status import WarningStatus
from worker.printable import shortened

NUM_KEPT = 20
_CHARS = 300
_NUMBER = re.compile(r"\d+")


class RecentWarnings(logging.Handler):
    """Keeps the newest, those that say the same but for numbers as one with a count."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._guard = threading.Lock()
        self._kept: deque[tuple[str, WarningStatus]] = deque(maxlen=NUM_KEPT)

    def emit(self, record: logging.LogRecord) -> None:
        text = shortened(message(record), _CHARS)
        kind, at_ms = f"{record.name} {_NUMBER.sub('#', text)}", int(record.created * 1000)
        with self._guard:
            earlier = next((entry for entry in self._kept if entry[0] == kind), None)
            if earlier is not None:
                self._kept.remove(earlier)
            count = 1 if earlier is None else earlier[1].count + 1
            level = record.levelname.lower()
            self._kept.append((kind, WarningStatus(at_ms=at_ms, level=level, text=text, count=count)))

    def newest_first(self) -> list[WarningStatus]:
        with self._guard:
            return [warning for _, warning in reversed(self._kept)]
