"""A user that may not see the control topic: commands say so, processes go on without a rollout."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from worker.errors import AccessError
from worker.rollout.control import ControlFollower, read_standing, standing_if_allowed
from worker.rollout.plan import Standing
from worker.settings import Settings


def forbid(*_: Any) -> Any:
    raise AccessError("asking for topics: not allowed")


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("worker.rollout.control.describe", forbid)
    monkeypatch.setattr("worker.rollout.control.RETRY_S", 0.0)
    monkeypatch.setattr("worker.rollout.control.LOOK_S", 0.0)
    return SimpleNamespace(topics=lambda: SimpleNamespace(look=forbid, close=lambda: None))


def test_a_process_without_rights_on_the_control_topic_goes_on_and_says_what_it_lacks(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert standing_if_allowed(client, Settings()) == Standing()
    assert "topics.rollouts: no rollout reaches this process" in caplog.text
    assert "'rollouts'" in caplog.text


def test_a_command_without_rights_on_it_fails(client: Any) -> None:
    with pytest.raises(AccessError):
        read_standing(client, Settings())


def test_who_follows_it_says_so_once_and_asks_again(client: Any, caplog: pytest.LogCaptureFixture) -> None:
    follower = ControlFollower(client, Settings())
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert follower.step(0) == Standing()
    assert caplog.text.count("no rollout reaches this process") == 1
    follower.close()
