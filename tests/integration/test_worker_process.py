"""The helper that other tests start workers with does what they take for granted."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.worker_process import WorkerProcess


def test_no_setting_but_those_given_reaches_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_KAFKA__GROUP_ID", "from-outside")
    settings = {"kafka.api_version": (2, 3), "kafka.check_crcs": False, "ALIGN_KAFKA__CLIENT_ID": "named"}
    with WorkerProcess(settings, command=("config", "--json")) as worker:
        assert worker.wait() == 0
    kafka = json.loads(worker.stdout)["kafka"]
    assert (kafka["group_id"], kafka["client_id"]) == ("align-worker", "named")
    assert (kafka["api_version"], kafka["check_crcs"]) == ([2, 3], False)


def test_a_worker_that_ends_is_not_waited_for() -> None:
    with WorkerProcess({}) as worker, pytest.raises(AssertionError, match=r"(?s)ended with 2, not ready.*space\.path"):
        worker.wait_ready()


def test_a_frozen_worker_is_gone_in_the_end(space_path: Path) -> None:
    with WorkerProcess({"space.path": space_path, "kafka.bootstrap_servers": "127.0.0.1:1"}) as worker:
        worker.wait_until(lambda: worker.get("/livez")[0] == 200)
        assert worker.status()["state"] == "starting"
        assert worker.metric("align_records_consumed_total", topic="items") == 0
        worker.signal(signal.SIGSTOP)
        with pytest.raises(TimeoutError, match="still runs"):
            worker.wait(0.1)
    assert worker.exit_code == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.kill(worker.pid, 0)
