import random

from hypothesis import given
from hypothesis import strategies as st

from worker.revisions import Newest, Revisions

INPUTS = st.lists(st.one_of(st.none(), st.integers(0, 5)), min_size=1, max_size=30)


def _accept(revisions: Revisions, revision: int | None, offset: int) -> bool:
    if revision is None:
        return revisions.accept_delete("a", offset)
    return revisions.accept_upsert("a", revision, offset)


def test_a_newer_revision_wins_and_an_older_one_is_overtaken():
    revisions = Revisions(10)
    assert revisions.accept_upsert("a", 2, offset=0)
    assert not revisions.accept_upsert("a", 1, offset=1)
    assert revisions.accept_upsert("a", 3, offset=2)


def test_the_same_revision_later_in_the_log_is_published_again():
    revisions = Revisions(10)
    assert revisions.accept_upsert("a", 2, offset=0)
    assert revisions.accept_upsert("a", 2, offset=5)


def test_a_delete_starts_a_new_life():
    revisions = Revisions(10)
    assert revisions.accept_upsert("a", 9, offset=0)
    assert revisions.accept_delete("a", offset=1)
    assert revisions.accept_upsert("a", 1, offset=2)


def test_an_input_read_again_from_before_a_delete_is_overtaken():
    revisions = Revisions(10)
    revisions.restore("a", Newest(offset=5, revision=None))
    assert not revisions.accept_upsert("a", 9, offset=4)
    assert revisions.accept_delete("a", offset=5)
    assert revisions.accept_upsert("a", 1, offset=6)


def test_a_delete_read_again_does_not_undo_what_came_after_it():
    revisions = Revisions(10)
    revisions.restore("a", Newest(offset=7, revision=1))
    assert not revisions.accept_delete("a", offset=6)


@given(INPUTS, st.data())
def test_reading_a_stretch_again_accepts_nothing_older_than_what_was_accepted(inputs, data):
    """A crash makes the log repeat from some offset: no accepted input may lie before the newest one accepted."""
    revisions = Revisions(100)
    newest = -1
    for offset, revision in enumerate(inputs):
        if _accept(revisions, revision, offset):
            newest = offset
    start = data.draw(st.integers(0, len(inputs) - 1))
    for offset in range(start, len(inputs)):
        if _accept(revisions, inputs[offset], offset):
            assert offset >= newest
            newest = offset


@given(INPUTS)
def test_after_the_whole_log_the_newest_is_the_greatest_revision_of_the_last_life(inputs):
    revisions = Revisions(100)
    accepted = [offset for offset, revision in enumerate(inputs) if _accept(revisions, revision, offset)]
    last_delete = max((offset for offset, revision in enumerate(inputs) if revision is None), default=-1)
    life = [(revision, offset) for offset, revision in enumerate(inputs) if offset > last_delete]
    assert accepted[-1] == (max(life)[1] if life else last_delete)


def test_memory_is_bounded_and_recent_items_are_remembered():
    revisions = Revisions(1_000)
    order = random.Random(0)
    for offset in range(20_000):
        revisions.accept_upsert(f"item-{order.randrange(10**9)}", 1, offset)
        assert len(revisions) <= 1_000
    revisions.accept_upsert("kept", 7, 20_000)
    for offset in range(20_001, 20_400):
        revisions.accept_upsert(f"other-{offset}", 1, offset)
    assert not revisions.accept_upsert("kept", 6, 20_400)


def test_restoring_does_not_replace_what_is_known_to_be_newer():
    revisions = Revisions(10)
    revisions.accept_upsert("a", 5, offset=9)
    revisions.restore("a", Newest(offset=3, revision=1))
    assert not revisions.accept_upsert("a", 4, offset=10)
