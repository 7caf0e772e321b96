"""What a look at the topics leads to, now and some seconds later."""

import pytest

from worker.errors import TopicError
from worker.kafka.port import Commit, TopicLook
from worker.loop.log_watch import MISSING_S, LogWatch
from worker.partitions.tenure import Note, Tenure
from worker.records import TopicPartition
from worker.settings import Settings
from worker.state import MemoryStore
from worker.state.input_log import InputLog
from worker.state.overlay import StateOverlay
from worker.topics import topics_of

TOPICS = topics_of("items", Settings())


def looked(**ids: str) -> dict[str, TopicLook]:
    known = {"items": "i", "item-vectors": "v", "item-state": "s", "dead-letters": "d"} | {
        name.replace("_", "-"): value for name, value in ids.items()
    }
    return {name: TopicLook(1, topic_id) for name, topic_id in known.items() if topic_id != "gone"}


@pytest.fixture
def tenure() -> Tenure:
    made = Tenure(TopicPartition("items", 0), Commit(0))
    made.begin_at(0, Note(0, InputLog("i"), "v", "s"), is_remembered=True)
    made.overlay = StateOverlay(MemoryStore(), bytes)
    return made


def test_topics_that_stay_the_same_change_nothing(tenure: Tenure) -> None:
    watch = LogWatch(TOPICS)
    assert watch.changed(None, [tenure], 0.0) == ""
    assert watch.changed(looked(), [tenure], 0.0) == ""
    assert watch.changed(looked(items="", dead_letters="d2"), [tenure], 1.0) == ""


@pytest.mark.parametrize("name", ["items", "item_vectors", "item_state"])
def test_another_topic_under_a_name_is_seen_once_per_look(tenure: Tenure, name: str) -> None:
    watch, look = LogWatch(TOPICS), looked(**{name: "other"})
    assert "other" in watch.changed(look, [tenure], 0.0)
    assert watch.changed(look, [tenure], 1.0) == ""


def test_what_is_being_restored_has_been_begun_with_what_there_is_now(tenure: Tenure) -> None:
    tenure.overlay = None
    assert LogWatch(TOPICS).changed(looked(items="other"), [tenure], 0.0) == ""


def test_outputs_that_are_being_filled_again_are_known(tenure: Tenure) -> None:
    tenure.new_outputs_id = "v2"
    assert LogWatch(TOPICS).changed(looked(item_vectors="v2"), [tenure], 0.0) == ""


def test_a_topic_may_be_missing_for_a_while_and_not_for_good(tenure: Tenure) -> None:
    watch = LogWatch(TOPICS)
    for now, ids in ((0.0, "gone"), (MISSING_S - 1, "gone"), (MISSING_S, "d"), (MISSING_S + 1, "gone")):
        assert watch.changed(looked(dead_letters=ids), [tenure], now) == ""
    with pytest.raises(TopicError, match=r"topics\.dead_letters: topic 'dead-letters' was deleted"):
        watch.changed(looked(dead_letters="gone"), [tenure], 2 * MISSING_S + 1)
