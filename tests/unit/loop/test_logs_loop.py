"""The whole loop where the log under it is cut short, made again, or has dropped what was not read."""

import zlib

import pytest

from schemas import ItemVector, decode
from tests.fakes import FakeCluster, item_value
from tests.unit.loop.harness import EXACTLY_ONCE, SETTINGS
from tests.unit.loop.test_pipeline import P0, Harness, feed, vectors
from worker.errors import TopicError
from worker.kafka.port import Commit
from worker.partitions.placement import murmur2
from worker.partitions.tenure import parse_note
from worker.settings import Settings
from worker.state.input_log import InputLog
from worker.state.items import ItemState

IDS = {"items": "i-1", "item-vectors": "v", "item-state": "s", "dead-letters": "d"}
REFUSE = SETTINGS.model_copy(update={"kafka": SETTINGS.kafka.model_copy(update={"on_new_log": "refuse"})})


@pytest.fixture
def cluster() -> FakeCluster:
    made = FakeCluster(1)
    made.topic_ids |= IDS
    return made


@pytest.fixture(autouse=True)
def _quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.loop.restore.LOOK_S", 0.01)


def expired(harness: Harness) -> float:
    return harness.metrics.expired.labels("items")._value.get()


@pytest.mark.parametrize("settings", [SETTINGS, EXACTLY_ONCE], ids=["at_least_once", "exactly_once"])
@pytest.mark.parametrize("is_running", [True, False], ids=["running", "stopped"])
@pytest.mark.parametrize("num_again", [3, 12], ids=["shorter", "longer"])
def test_another_log_is_newer_as_a_whole_and_revisions_decide_as_ever(
    cluster: FakeCluster, settings: Settings, is_running: bool, num_again: int
) -> None:
    feed(cluster, 10)
    cluster.append("items", 0, b"old", item_value("old", 7))

    def again() -> None:
        cluster.recreate("items", "i-2")
        cluster.append("items", 0, b"old", item_value("old", 6))
        for number in reversed(range(num_again)):
            cluster.append("items", 0, b"p0-%d" % number, item_value(f"p0-{number}", 1 + number % 2))

    with Harness(cluster, settings=settings) as harness:
        harness.until_committed()
        if is_running:
            again()
            harness.until(lambda: len(harness.pipeline.ledger.incidents) == 1)
            harness.until_committed()
    if not is_running:
        again()
        with Harness(cluster, settings=settings) as harness:
            harness.until_committed()
            assert len(harness.pipeline.ledger.incidents) == 1
    newest = {record.key: decode(ItemVector, record.value) for record in cluster.records("item-vectors")}
    for number in range(num_again):
        vector = newest[b"p0-%d" % number]
        assert vector.revision == 1 + number % 2
        assert vector.source_offset == InputLog("i-2", 1).at(num_again - number)
    assert newest[b"old"].source_offset == 10
    assert parse_note(cluster.commits[P0].metadata).log == InputLog("i-2", 1)


def test_a_third_log_is_newer_than_the_second(cluster: FakeCluster) -> None:
    for number in range(3):
        cluster.recreate("items", f"log-{number}")
        cluster.append("items", 0, b"a", item_value("a", 1))
        with Harness(cluster) as harness:
            harness.until_committed()
    assert [decode(ItemVector, record.value).source_offset for record in cluster.records("item-vectors")] == [
        InputLog("", era).at(0) for era in range(3)
    ]


def test_a_refused_log_ends_the_loop(cluster: FakeCluster) -> None:
    feed(cluster, 3)
    with Harness(cluster, settings=REFUSE) as harness:
        harness.until_committed()
        cluster.recreate("items", "i-2")
        feed(cluster, 2)
        harness._thread.join(10)
        assert isinstance(harness.error, TopicError)
        assert harness.error.exit_code == 4
    for told in ("topics.items", "i-1", "i-2", "kafka.on_new_log"):
        assert told in harness.error.one_line()
    assert len(vectors(cluster)) == 3


def test_a_gap_is_a_loss_only_where_the_log_begins_behind_it(cluster: FakeCluster) -> None:
    """Compaction leaves gaps, and so do aborted transactions and their markers."""
    feed(cluster, 3)
    with Harness(cluster) as harness:
        harness.until_committed()
        for committed in (False, True):
            cluster.begin("other")
            cluster.append_open("other", "items", 0, b"aborted", item_value("aborted"))
            cluster.end_transaction("other", commit=committed)
        harness.until(lambda: len(vectors(cluster)) == 4)
        assert expired(harness) == 0
        harness.until(lambda: harness.pipeline.assignment[P0].tenure.position == 7)
        with cluster.lock:
            feed(cluster, 6)
            cluster.drop(P0, len(cluster.log[P0]) - 2)
        harness.until(lambda: len(vectors(cluster)) == 6)
        assert expired(harness) == 4
        assert [each.kind for each in harness.pipeline.ledger.incidents] == ["expired"]


def test_what_expired_before_the_start_is_counted_and_a_log_that_has_nothing_more_too(cluster: FakeCluster) -> None:
    feed(cluster, 3)
    with Harness(cluster) as harness:
        harness.until_committed()
    feed(cluster, 5)
    cluster.drop(P0, 8)
    with Harness(cluster, until_caught_up=True) as harness:
        harness.until_ended()
        assert harness.pipeline.is_caught_up
        assert harness.pipeline.ledger.num_expired == expired(harness) == 5
    with Harness(cluster) as harness:
        harness.until(lambda: bool(harness.pipeline.assignment.in_state("running")))
        assert expired(harness) == 0


def test_a_log_that_goes_back_under_the_worker_is_read_from_its_beginning(cluster: FakeCluster) -> None:
    """Cut short in an unclean election: it keeps its id, and grows again."""
    feed(cluster, 6)
    with Harness(cluster) as harness:
        harness.until_committed()
        with cluster.lock:
            del cluster.log[P0][4:]
            cluster.append("items", 0, b"p0-0", item_value("p0-0", 2))
        harness.until(lambda: ("p0-0", 2) in vectors(cluster))
        harness.until_committed()
    newest = {record.key: decode(ItemVector, record.value) for record in cluster.records("item-vectors")}
    assert newest[b"p0-0"].source_offset == InputLog("", 1).at(4)
    assert cluster.commits[P0].offset == 5


def test_outputs_that_were_made_again_are_filled_from_what_is_remembered(cluster: FakeCluster) -> None:
    feed(cluster, 10)
    with Harness(cluster) as harness:
        harness.until_committed()
        cluster.recreate("item-vectors", "v-2")
        harness.until(lambda: len(set(vectors(cluster))) == 10)
        harness.until(lambda: parse_note(cluster.commits[P0].metadata).outputs_id == "v-2")
        assert harness.pipeline.assignment.in_flight == 0


def test_a_changelog_that_was_made_again_is_built_from_the_log(cluster: FakeCluster) -> None:
    feed(cluster, 10)
    with Harness(cluster) as harness:
        harness.until_committed()
    feed_newer = [cluster.append("items", 0, b"p0-%d" % n, item_value(f"p0-{n}", 2)) for n in range(10)]
    with Harness(cluster) as harness:
        harness.until_committed()
    num_published = len(vectors(cluster))
    cluster.recreate("item-state", "s-2")
    with Harness(cluster) as harness:
        harness.until(lambda: cluster.records("item-state")[-1:] != [])
        harness.until(lambda: parse_note(cluster.commits[P0].metadata).state_id == "s-2")
        harness.until(lambda: cluster.commits[P0].offset == 20)
    assert {revision for _, revision in vectors(cluster)[num_published:]} == {2}, "what is newest, as after a crash"
    states = {record.key: record.value for record in cluster.records("item-state")}
    assert ItemState.decode(states[b"p0-3"]).offset == feed_newer[3]


@pytest.mark.parametrize("settings", [SETTINGS, EXACTLY_ONCE], ids=["at_least_once", "exactly_once"])
def test_markers_at_the_end_are_committed_so_that_they_never_look_like_a_loss(
    cluster: FakeCluster, settings: Settings
) -> None:
    cluster.begin("other")
    cluster.append_open("other", "items", 0, b"a", item_value("a"))
    cluster.end_transaction("other", commit=True)
    with Harness(cluster, settings=settings) as harness:
        harness.until(lambda: cluster.commits.get(P0, Commit(0)).offset == len(cluster.log[P0]) == 2)
    cluster.drop(P0, 2)
    with Harness(cluster, settings=settings) as harness:
        harness.until(lambda: bool(harness.pipeline.assignment.in_state("running")))
        assert expired(harness) == 0


def test_commits_of_an_earlier_version_are_taken_over(cluster: FakeCluster) -> None:
    feed(cluster, 6)
    cluster.commits[P0] = Commit(4, "vectors_end=0")
    with Harness(cluster) as harness:
        harness.until_committed()
    assert [name for name, _ in vectors(cluster)] == ["p0-4", "p0-5"]
    assert parse_note(cluster.commits[P0].metadata).log == InputLog("i-1")


def test_producers_that_disagree_are_told_and_those_that_agree_are_not(caplog: pytest.LogCaptureFixture) -> None:
    for disagree in (False, True):
        cluster = FakeCluster(2)
        for number in range(40):
            name = f"i-{number}".encode()
            hashed = zlib.crc32(name) if disagree and number % 2 else murmur2(name)
            cluster.append("items", hashed % 2, name, item_value(name.decode()))
        with Harness(cluster) as harness:
            harness.until_committed()
            assert harness.metrics.partitioners.labels("items")._value.get() == 1 + disagree
            kinds = [each.kind for each in harness.pipeline.ledger.incidents]
            assert kinds == ["partitioners"] * disagree
    assert "murmur2 (Java" in caplog.text
    assert "crc32 (librdkafka" in caplog.text
