"""A feed that breaks off must not pass for one that has come to its end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.feeder import Feeder, FeedFailedError
from tests.brokers import Outgoing


def broken() -> Iterator[Outgoing]:
    raise SystemError("out of the client")
    yield


def test_a_feed_that_breaks_off_is_a_failure() -> None:
    with Feeder("127.0.0.1:9", broken(), pace=1_000) as feeder:
        feeder._thread.join(10)
        with pytest.raises(FeedFailedError, match="broke off after 0 inputs: SystemError"):
            _ = feeder.is_done
