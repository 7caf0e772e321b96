import pytest

from tests.fakes import FakeClient, FakeCluster
from worker.errors import ConfigError, TopicError
from worker.kafka.port import TopicDescription
from worker.settings import Settings, TopicSettings
from worker.topics import check_topics, create_topics, problems, wanted_topics, warnings

TOPICS = TopicSettings()


def described(**num_partitions: int) -> dict[str, TopicDescription]:
    return {name.replace("_", "-"): TopicDescription(number, 1_000) for name, number in num_partitions.items()}


def test_good_topics_have_no_problems():
    assert problems(TOPICS, described(items=4, item_vectors=4, dead_letters=1)) == []


def test_each_missing_topic_is_named_with_its_setting():
    found = problems(TOPICS, described(items=4))
    assert found == [
        "topics.item_vectors: topic 'item-vectors' does not exist",
        "topics.dead_letters: topic 'dead-letters' does not exist",
    ]


def test_unequal_partitions_are_refused():
    (problem,) = problems(TOPICS, described(items=4, item_vectors=6, dead_letters=1))
    assert "has 6 partitions, 'items' has 4" in problem


def test_dead_letters_must_hold_the_largest_item():
    descriptions = described(items=4, item_vectors=4, dead_letters=1)
    assert len(warnings(TOPICS, descriptions)) == 1
    descriptions["dead-letters"] = TopicDescription(1, 2_000)
    assert warnings(TOPICS, descriptions) == []


def test_created_topics_pass_the_check():
    client = FakeClient(FakeCluster(4, topics=()))
    with pytest.raises(TopicError, match="align-worker topics create"):
        check_topics(client, Settings())
    assert create_topics(client, Settings(), 4, 1) == ["items", "item-vectors", "dead-letters"]
    check_topics(client, Settings())
    assert create_topics(client, Settings(), 4, 1) == []


def test_a_missing_output_topic_gets_the_partitions_of_its_input():
    cluster = FakeCluster(6, topics=("items",))
    create_topics(FakeClient(cluster), Settings(), num_partitions=2, replication=1)
    assert {tp.partition for tp in cluster.log if tp.topic == "item-vectors"} == set(range(6))


def test_partitions_must_be_positive():
    with pytest.raises(ConfigError, match="--partitions"):
        create_topics(FakeClient(FakeCluster()), Settings(), 0, 1)


def test_a_wanted_dead_letter_topic_takes_the_largest_wanted_item():
    wanted = wanted_topics(TOPICS)
    assert int(wanted["dead-letters"]["max.message.bytes"]) > int(wanted["items"]["max.message.bytes"])
    assert wanted["item-vectors"]["cleanup.policy"] == "compact"
