"""Items encoded by servers, through the whole worker: what servers go through costs no item."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.brokers.broker import embedded
from tests.remote_campaign import campaign, make_space
from tests.remote_server import RemoteServer
from worker.kafka.embedded import EmbeddedBroker


@pytest.mark.campaign
def test_no_item_is_lost_wrong_or_refused_whatever_the_server_goes_through(
    embedded_broker: EmbeddedBroker, topics: Mapping[str, str], tmp_path: Path
) -> None:
    """The short form; `python -m tests.remote_campaign` is the long one."""
    with RemoteServer() as server:
        outcome = campaign(
            embedded(embedded_broker),
            server,
            topics,
            make_space(tmp_path),
            items=1_100,
            slow_s=1.0,
            protocol="tei",
            pace=0.5,
        )
    assert outcome.is_ok, outcome.text()
    assert outcome.stopped > 0
