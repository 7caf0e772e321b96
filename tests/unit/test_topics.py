import pytest

from tests.fakes import FakeClient, FakeCluster
from worker.errors import ConfigError, TopicError
from worker.kafka.port import TopicDescription
from worker.settings import Settings, StateSettings
from worker.topics import check_topics, create_topics, needed_topics, problems, wanted_topics, warnings

ITEMS, USERS, BOTH = (Settings(roles=roles) for roles in ({"items"}, {"users"}, {"items", "users"}))
GOOD = {"items": 4, "item_vectors": 4, "item_state": 4, "dead_letters": 1}
GOOD_USERS = {"events": 6, "user_vectors": 6, "user_state": 6, "item_vectors": 4, "dead_letters": 1}


def described(**num_partitions: int) -> dict[str, TopicDescription]:
    return {name.replace("_", "-"): TopicDescription(number, 1_000) for name, number in num_partitions.items()}


@pytest.mark.parametrize(
    ("settings", "topics"),
    [(ITEMS, GOOD), (USERS, GOOD_USERS), (BOTH, GOOD | GOOD_USERS)],
    ids=["items", "users", "both"],
)
def test_good_topics_have_no_problems(settings, topics):
    assert problems(settings, described(**topics)) == []
    assert needed_topics(settings).keys() == described(**topics).keys()


def test_each_missing_topic_is_named_with_its_setting():
    found = problems(BOTH, described(items=4, events=4))
    assert found == [
        f"topics.{name}: topic {name.replace('_', '-')!r} does not exist"
        for name in ("item_vectors", "item_state", "user_vectors", "user_state", "dead_letters")
    ]


@pytest.mark.parametrize("name", ["item_vectors", "item_state"])
def test_unequal_partitions_are_refused(name):
    (problem,) = problems(ITEMS, described(**(GOOD | {name: 6})))
    assert problem.startswith(f"topics.{name}:")
    assert "has 6 partitions, 'items' has 4" in problem


def test_a_changelog_with_fewer_partitions_than_its_input_is_refused():
    (problem,) = problems(USERS, described(**(GOOD_USERS | {"user_state": 2})))
    assert problem == (
        "topics.user_state: topic 'user-state' has 2 partitions, 'events' has 6: they must have the same number"
    )


def test_dead_letters_must_hold_the_largest_input():
    descriptions = described(**GOOD)
    assert len(warnings(ITEMS, descriptions)) == 1
    descriptions["dead-letters"] = TopicDescription(1, 2_000)
    assert warnings(ITEMS, descriptions) == []


@pytest.mark.parametrize("settings", [ITEMS, USERS, BOTH], ids=["items", "users", "both"])
def test_created_topics_pass_the_check(settings):
    client = FakeClient(FakeCluster(4, topics=()))
    with pytest.raises(TopicError, match="align-worker topics create"):
        check_topics(client, settings)
    created = create_topics(client, settings, 4, 1)
    assert set(created) >= set(wanted_topics(settings))
    check_topics(client, settings)
    assert create_topics(client, settings, 4, 1) == []


def test_missing_topics_get_the_partitions_of_the_input_they_belong_to():
    cluster = FakeCluster(6, topics=("items",))
    create_topics(FakeClient(cluster), BOTH, num_partitions=2, replication=1)
    partitions = {topic: sum(tp.topic == topic for tp in cluster.log) for topic in {tp.topic for tp in cluster.log}}
    assert partitions == {
        "items": 6, "item-vectors": 6, "item-state": 6,
        "events": 2, "user-vectors": 2, "user-state": 2, "dead-letters": 2,
    }  # fmt: skip


def test_partitions_must_be_positive():
    with pytest.raises(ConfigError, match="--partitions"):
        create_topics(FakeClient(FakeCluster()), Settings(), 0, 1)


def test_a_wanted_dead_letter_topic_takes_the_largest_wanted_item():
    wanted = wanted_topics(ITEMS)
    for name in ("dead-letters", "item-state"):
        assert int(wanted[name]["max.message.bytes"]) > int(wanted["items"]["max.message.bytes"])
    assert wanted["item-vectors"]["cleanup.policy"] == "compact"


def test_items_in_parts_are_not_compacted_which_would_keep_the_last_part_alone():
    whole = Settings(state=StateSettings(features=False))
    assert wanted_topics(ITEMS)["items"]["cleanup.policy"] == "delete"
    assert wanted_topics(whole)["items"]["cleanup.policy"] == "compact"
