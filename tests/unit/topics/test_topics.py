from typing import Any

import pytest

from tests.fakes import FakeClient, FakeCluster
from worker.errors import ConfigError, TopicError
from worker.kafka.port import TopicDescription
from worker.settings import Settings, StateSettings, load
from worker.topics import (
    check_topics,
    create_topics,
    findings,
    needed_topics,
    problems,
    replication_for,
    wanted_topics,
)

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
def test_good_topics_have_no_problems(settings: Settings, topics: dict[str, Any]) -> None:
    assert problems(settings, described(**topics)) == []
    assert needed_topics(settings).keys() == described(**topics).keys()


def test_each_missing_topic_is_named_with_its_setting() -> None:
    found = problems(BOTH, described(items=4, events=4))
    assert found == [
        f"topics.{name}: topic {name.replace('_', '-')!r} does not exist"
        for name in ("item_vectors", "item_state", "user_vectors", "user_state", "dead_letters")
    ]


@pytest.mark.parametrize("name", ["item_vectors", "item_state"])
def test_unequal_partitions_are_refused(name: str) -> None:
    (problem,) = problems(ITEMS, described(**(GOOD | {name: 6})))
    assert problem.startswith(f"topics.{name}:")
    assert "has 6 partitions, 'items' has 4" in problem


def test_a_changelog_with_fewer_partitions_than_its_input_is_refused() -> None:
    (problem,) = problems(USERS, described(**(GOOD_USERS | {"user_state": 2})))
    assert problem == (
        "topics.user_state: topic 'user-state' has 2 partitions, 'events' has 6: they must have the same number "
        "(add what is missing: `kafka-topics.sh --bootstrap-server localhost:9092 --alter --topic user-state "
        "--partitions 6`)"
    )


def told(settings: Any, descriptions: Any, **more: Any) -> Any:
    return [each.what for each in findings(settings, descriptions, **more)]


def test_dead_letters_and_what_is_remembered_must_hold_the_largest_input() -> None:
    descriptions = described(**GOOD)
    first, second = told(ITEMS, descriptions)
    assert "topics.item_state: topic 'item-state' takes up to 1000 bytes" in first
    assert "topics.dead_letters: topic 'dead-letters' takes up to 1000 bytes" in second
    descriptions["dead-letters"] = descriptions["item-state"] = TopicDescription(1, 2_000)
    assert told(ITEMS, descriptions) == []


def as_made(settings: Any, replication: Any = 3, **changes: Any) -> Any:
    """Topics as `topics create` makes them, but for the configuration given by name of the topic."""
    cluster = FakeCluster(topics=())
    client = FakeClient(cluster)
    create_topics(client, settings, 4, replication)
    made = client.describe_topics(list(wanted_topics(settings)))
    for name, topic in made.items():
        configuration = {"retention.ms": "604800000", "retention.bytes": "-1", **topic.configuration}
        configuration |= changes.get(name.replace("-", "_"), {})
        made[name] = topic._replace(replication=replication, configuration=configuration)
    return made


@pytest.mark.parametrize("settings", [ITEMS, USERS, BOTH, Settings(state=StateSettings(features=False))])
@pytest.mark.parametrize("replication", [1, 2, 3, 5])
def test_of_what_is_made_nothing_is_found_wanting(settings: Settings, replication: int) -> None:
    assert problems(settings, as_made(settings, replication)) == []
    assert findings(settings, as_made(settings, replication)) == []


@pytest.mark.parametrize(
    ("topic", "configuration", "what", "changes", "loses"),
    [
        ("item_state", {"cleanup.policy": "delete"}, "is lost after 7 days", {"cleanup.policy": "compact"}, True),
        ("user_state", {"cleanup.policy": "compact,delete"}, "cleanup.policy=compact,delete",
         {"cleanup.policy": "compact"}, True),
        ("item_vectors", {"cleanup.policy": "delete", "retention.ms": "3600000"}, "is lost after 1 hour",
         {"cleanup.policy": "compact"}, True),
        ("user_vectors", {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "1000"}, "may be lost",
         {"cleanup.policy": "compact"}, True),
        ("item_vectors", {"delete.retention.ms": "60000"}, "keeps what was deleted",
         {"delete.retention.ms": "86400000"}, False),
        ("items", {"cleanup.policy": "compact"}, "only the last part is kept",
         {"cleanup.policy": "delete", "retention.ms": "-1"}, True),
        ("items", {"retention.ms": "604800000"}, "keeps items for 7 days: a change of space", {"retention.ms": "-1"},
         False),
        ("items", {"retention.bytes": "1000000"}, "keeps 1000000 bytes of a", {"retention.bytes": "-1"}, False),
        ("events", {"retention.ms": "60000"}, "keeps events for 1 minute, and histories reach back 30 days",
         {"retention.ms": "2592000000"}, False),
        ("events", {"cleanup.policy": "compact"}, "only the last is kept", {"cleanup.policy": "delete"}, True),
        ("events", {"retention.bytes": "1"}, "keeps 1 bytes", {"retention.bytes": "-1"}, False),
        ("dead_letters", {"cleanup.policy": "compact"}, "one without a key is refused",
         {"cleanup.policy": "delete"}, True),
        ("dead_letters", {"retention.ms": "3600000"}, "keeps dead letters for 1 hour", {"retention.ms": "2592000000"},
         False),
        ("item_state", {"min.insync.replicas": "1"}, "an acknowledged record is lost with one broker",
         {"min.insync.replicas": "2"}, False),
        ("item_state", {"min.insync.replicas": "3"}, "while a broker restarts nothing can be written",
         {"min.insync.replicas": "2"}, False),
        ("user_vectors", {"unclean.leader.election.enable": "true"}, "unclean.leader.election.enable=true",
         {"unclean.leader.election.enable": "false"}, False),
    ],
)  # fmt: skip
def test_a_configuration_that_hurts_later_is_told_with_what_helps(
    topic: str, configuration: dict[str, Any], what: str, changes: dict[str, Any], loses: bool
) -> None:
    (found,) = findings(BOTH, as_made(BOTH, **{topic: configuration}))
    assert f"topics.{topic}: topic '{found.topic}' " in found.what
    assert what in found.what
    assert (dict(found.changes), found.loses) == (changes, loses)
    values = ",".join(f"{key}={value}" for key, value in changes.items())
    assert (
        f"`kafka-configs.sh --bootstrap-server b:9092 --alter --entity-type topics --entity-name {found.topic} "
        f"--add-config {values}`"
    ) in found.told("b:9092")
    assert findings(BOTH, as_made(BOTH, **{topic: {**configuration, **changes}})) == []


def test_how_far_histories_reach_back_is_for_the_space_to_say() -> None:
    topics = as_made(USERS)
    assert findings(USERS, topics, half_life_ms=7 * 86_400_000) == []
    (found,) = findings(USERS, topics, half_life_ms=30 * 86_400_000)
    assert "keeps events for 30 days, and histories reach back 120 days" in found.what


def test_whole_items_may_be_compacted() -> None:
    whole = Settings(state=StateSettings(features=False))
    assert findings(whole, as_made(whole, items={"cleanup.policy": "compact"})) == []
    (found,) = findings(whole, as_made(whole, items={"cleanup.policy": "delete"}))
    assert "keeps items for 7 days" in found.what


def test_topics_that_need_more_copies_in_sync_than_there_are_cannot_be_used() -> None:
    (problem,) = problems(ITEMS, as_made(ITEMS, 1, item_vectors={"min.insync.replicas": "2"}))
    assert "topics.item_vectors: topic 'item-vectors' has min.insync.replicas=2 and 1 copy: nothing can be" in problem
    assert "--entity-name item-vectors --add-config min.insync.replicas=1`" in problem


def test_of_topics_that_may_not_be_asked_about_nothing_is_said() -> None:
    known = {
        name: TopicDescription(4, 9 if name == "items" else 10, replication=3)
        for name in wanted_topics(BOTH)
        if name != "events"
    }
    assert told(BOTH, known) == []


@pytest.mark.parametrize(("brokers", "copies"), [(1, 1), (2, 2), (3, 3), (9, 3)])
def test_there_are_as_many_copies_as_brokers_up_to_three(brokers: int, copies: int) -> None:
    assert replication_for(brokers, None) == copies
    assert replication_for(brokers, 1) == 1


def test_more_copies_than_brokers_are_refused_in_one_line() -> None:
    with pytest.raises(TopicError) as raised:
        replication_for(1, 3)
    assert raised.value.one_line() == "3 replicas need 3 brokers, there is 1: give --replication 1, or leave it out"
    with pytest.raises(TopicError, match="there are 2: give --replication 2"):
        replication_for(2, 3)


def test_nothing_is_made_beside_topics_that_do_not_fit_together() -> None:
    cluster = FakeCluster(4, topics=("items",))
    FakeClient(cluster).create_topics({"item-vectors": {}}, 2, 1)
    with pytest.raises(TopicError, match="'item-vectors' has 2 partitions, 'items' has 4"):
        create_topics(FakeClient(cluster), ITEMS, 4, 1)
    assert {tp.topic for tp in cluster.log} == {"items", "item-vectors"}


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 250, ".", "..", "größe", "a\x1b"])
def test_a_name_that_no_topic_can_have_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"topics\.events: .* cannot be the name of a topic"):
        load({"topics.events": name})


@pytest.mark.parametrize("settings", [ITEMS, USERS, BOTH], ids=["items", "users", "both"])
def test_created_topics_pass_the_check(settings: Settings) -> None:
    client = FakeClient(FakeCluster(4, topics=()))
    with pytest.raises(TopicError, match="align-worker topics create"):
        check_topics(client, settings)
    created = create_topics(client, settings, 4, 1)
    assert set(created) >= set(wanted_topics(settings))
    check_topics(client, settings)
    assert create_topics(client, settings, 4, 1) == {}


def test_missing_topics_get_the_partitions_of_the_input_they_belong_to() -> None:
    cluster = FakeCluster(6, topics=("items",))
    create_topics(FakeClient(cluster), BOTH, num_partitions=2, replication=1)
    partitions = {topic: sum(tp.topic == topic for tp in cluster.log) for topic in {tp.topic for tp in cluster.log}}
    assert partitions == {
        "items": 6, "item-vectors": 6, "item-state": 6,
        "events": 2, "user-vectors": 2, "user-state": 2, "dead-letters": 2,
    }  # fmt: skip


def test_partitions_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="--partitions"):
        create_topics(FakeClient(FakeCluster()), Settings(), 0, 1)


def test_a_wanted_dead_letter_topic_takes_the_largest_wanted_item() -> None:
    wanted = wanted_topics(ITEMS)
    for name in ("dead-letters", "item-state"):
        assert int(wanted[name]["max.message.bytes"]) > int(wanted["items"]["max.message.bytes"])
    assert wanted["item-vectors"]["cleanup.policy"] == "compact"


def test_items_in_parts_are_not_compacted_which_would_keep_the_last_part_alone() -> None:
    whole = Settings(state=StateSettings(features=False))
    assert wanted_topics(ITEMS)["items"]["cleanup.policy"] == "delete"
    assert wanted_topics(whole)["items"]["cleanup.policy"] == "compact"
