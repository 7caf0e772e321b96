"""A worker that is sent nothing it can use: what its log and its status say, and how a run to the end ends."""

from __future__ import annotations

import pytest

from tests.integration.stream import Stream, names
from tests.integration.worker_thread import WorkerThread
from tests.worker_process import WorkerProcess
from worker.monitoring.status import Tone

NUM = 300


def test_all_refused_is_amber_until_something_else_comes(stream: Stream) -> None:
    with WorkerThread(stream.settings()) as worker:
        worker.wait_ready()
        assert worker.items.concerns == []
        stream.feed(stream.record(name, b"\xc1 no message") for name in names(NUM))
        worker.until(lambda: worker.items.accounting.dead_lettered == NUM)
        worker.until(lambda: bool(worker.items.concerns))
        (concern,) = worker.items.concerns
        assert (concern.kind, concern.tone) == ("refused", Tone.WARN)
        assert concern.title == "all of the recent input is refused"
        worker.until(lambda: any("refused as not_msgpack" in each.text for each in worker.status.warnings))
        stream.feed_items(names(10 * NUM))
        worker.until(lambda: worker.items.concerns == [], name="well again")


@pytest.mark.parametrize(("num_good", "code"), [(0, 13), (NUM // 2, 13), (2 * NUM, 0)])
def test_a_run_to_the_end_fails_when_too_much_was_refused(stream: Stream, num_good: int, code: int) -> None:
    stream.feed(stream.record(name, b"\xc1 no message") for name in names(NUM, "bad"))
    stream.feed_items(names(num_good))
    with WorkerProcess(stream.settings(), command=("run", "--until-caught-up")) as worker:
        assert worker.wait(150) == code, worker.log_tail()
        last = worker.stderr.splitlines()[-1]
    assert (f"{NUM} of {NUM + num_good} records of items were refused" in last) is bool(code)
