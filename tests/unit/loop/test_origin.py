"""Where a partition begins, and in which log."""

from typing import Any

import pytest

from worker.loop.origin import Known, Origin, found_logs, origin
from worker.partitions.tenure import Note
from worker.settings import Settings
from worker.state.input_log import InputLog
from worker.topics import topics_of

OLD, NEW = InputLog("old"), InputLog("new")
TOPICS = topics_of("items", Settings())


def known(**changes: Any) -> Known:
    fields: dict[str, Any] = {
        "committed": 30, "note": Note(5, OLD), "remembered": OLD, "newest_published": 29, "topic_id": "old", "first": 0,
        "end": 40,
    }  # fmt: skip
    return Known(**{**fields, **changes})


def test_the_same_log_goes_on_from_the_commit() -> None:
    assert origin(known()) == Origin(OLD, 30)


def test_another_log_begins_a_new_era_at_its_beginning() -> None:
    found = origin(known(topic_id="new", first=2, end=500))
    assert (found.log, found.offset, found.num_expired) == (InputLog("new", 1), 2, 0)
    assert "new" in found.reason
    assert "old" in found.reason


@pytest.mark.parametrize("committed", [None, 0, 7])
def test_the_changelog_tells_where_the_broker_has_forgotten_the_commits(committed: int | None) -> None:
    found = origin(known(committed=committed, note=None, topic_id="new", newest_published=-1))
    assert (found.log, found.offset) == (InputLog("new", 1), 0)


def test_a_commit_of_an_earlier_log_says_nothing_of_one_that_is_taken_up_already() -> None:
    """A crash between the first states of the new log and its first commit."""
    later = InputLog("new", 1)
    assert origin(known(remembered=later, topic_id="new", first=3)) == Origin(later, 3)


def test_an_attempt_that_left_nothing_but_outputs_is_not_taken_for_the_log_there_is_now() -> None:
    found = origin(known(topic_id="third", newest_published=InputLog("second", 1).at(4)))
    assert found.log == InputLog("third", 2)


def test_the_first_commits_that_name_a_log_take_over_those_that_do_not() -> None:
    assert origin(known(note=Note(5), remembered=None)) == Origin(OLD, 30)
    assert origin(known(note=None, remembered=None, committed=0, newest_published=-1)) == Origin(OLD, 0)


def test_without_ids_a_log_that_ends_before_what_was_read_is_another_one() -> None:
    nameless = {"note": Note(5), "remembered": None, "topic_id": ""}
    assert origin(known(**nameless)) == Origin(InputLog(), 30)
    for changes in ({"end": 29}, {"committed": 3, "end": 20}):
        found = origin(known(**nameless, **changes))
        assert (found.log, found.offset) == (InputLog("", 1), 0)
        assert found.reason


def test_a_log_that_ends_where_the_group_has_read_to_is_the_same() -> None:
    assert origin(known(committed=40, end=40)) == Origin(OLD, 40)


def test_of_two_traces_of_one_era_the_one_that_names_the_log_counts() -> None:
    assert origin(known(note=Note(5), remembered=OLD, topic_id="new")).log == InputLog("new", 1)


def test_a_new_group_in_a_cluster_that_names_no_logs_begins_at_the_beginning() -> None:
    nothing = {"committed": None, "note": None, "remembered": None, "newest_published": -1, "topic_id": ""}
    assert origin(known(**nothing)) == Origin(InputLog(), 0)


def test_a_log_cut_short_begins_a_new_era_whatever_its_id() -> None:
    found = origin(known(end=25, newest_published=-1))
    assert (found.log, found.offset) == (InputLog("old", 1), 0)
    assert "ends at offset 25, before offset 30" in found.reason


def test_a_log_that_went_back_is_doubted_though_it_has_grown_again() -> None:
    found = origin(known(doubt="it went back"))
    assert (found.log, found.offset, found.reason) == (InputLog("old", 1), 0, "it went back")


def test_what_the_log_dropped_before_it_was_read_is_counted() -> None:
    assert origin(known(first=35)) == Origin(OLD, 35, num_expired=5)
    assert origin(known(first=30)) == Origin(OLD, 30)


def test_a_group_that_is_new_has_lost_nothing() -> None:
    assert origin(known(committed=35, note=None, remembered=None, first=35)) == Origin(OLD, 35)


def test_a_new_group_on_old_outputs_is_not_older_than_they_are() -> None:
    published = InputLog("x", 3).at(7)
    assert origin(known(note=None, remembered=None, newest_published=published)).log == InputLog("old", 3)


def test_outputs_and_changelogs_are_judged_by_what_was_committed() -> None:
    note = Note(5, OLD, "outputs", "state")
    same = found_logs(known(note=note), "outputs", "state")
    assert same.told(TOPICS) == []
    others = found_logs(known(note=note), "outputs-2", "state-2")
    assert (others.are_outputs_new, others.is_state_new) == (True, True)
    assert ["topics.item_vectors" in others.told(TOPICS)[0], "topics.item_state" in others.told(TOPICS)[1]] == [
        True
    ] * 2
    unknown = found_logs(known(note=note), "", "")
    assert unknown.told(TOPICS) == []


def test_a_log_that_is_another_one_is_told_with_the_setting_that_names_it() -> None:
    (told,) = found_logs(known(topic_id="new"), "", "").told(TOPICS)
    assert told.startswith("topics.items: topic 'items' is another log than before: ")
