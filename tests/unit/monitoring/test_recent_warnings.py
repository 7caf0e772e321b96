"""The last warnings of the log, as the page shows them."""

from __future__ import annotations

import logging

from worker.monitoring.recent_warnings import NUM_KEPT, RecentWarnings


def logger_with(handler: RecentWarnings) -> logging.Logger:
    logger = logging.Logger("worker.test")
    logger.addHandler(handler)
    return logger


def test_warnings_are_kept_newest_first_and_repeated_ones_counted() -> None:
    handler = RecentWarnings()
    logger = logger_with(handler)
    logger.info("no matter")
    for number in range(5):
        logger.warning("partition %d waits", number)
    logger.error("something else")
    kept = [(warning.level, warning.text, warning.count) for warning in handler.newest_first()]
    assert kept == [("error", "something else", 1), ("warning", "partition 4 waits", 5)]


def test_they_are_few_and_short_and_drive_no_terminal() -> None:
    handler = RecentWarnings()
    logger = logger_with(handler)
    for letter in map(chr, range(0x4E00, 0x4E00 + 3 * NUM_KEPT)):
        logger.warning("%s \x1b[31m\n%s", letter, "x" * 9_000)
    kept = handler.newest_first()
    assert len(kept) == NUM_KEPT
    assert all(warning.text.isprintable() and len(warning.text) < 500 for warning in kept)


def test_a_message_that_cannot_be_formatted_is_kept_all_the_same() -> None:
    handler = RecentWarnings()
    logger_with(handler).warning("%d %d", "a")
    assert len(handler.newest_first()) == 1
