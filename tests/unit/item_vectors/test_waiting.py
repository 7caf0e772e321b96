from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from worker.item_vectors.waiting import Waiting

CALLS = st.lists(
    st.tuples(
        st.sampled_from(["add", "take", "keep", "forget", "remove"]),
        st.sampled_from("ab"),
        st.integers(0, 1),
        st.sampled_from("uv"),
    ),
    max_size=30,
)


def test_a_user_waits_until_its_item_appears() -> None:
    waiting = Waiting(10)
    waiting.add(["a", "b"], 0, "u")
    waiting.add(["a"], 1, "v")
    assert waiting.take(["a"]) == {0: {"u"}, 1: {"v"}}
    assert waiting.take(["a"]) == {}
    assert waiting.take(["b", "c"]) == {0: {"u"}}
    assert waiting.num_pairs == 0


def test_what_does_not_fit_is_counted() -> None:
    waiting = Waiting(2)
    waiting.add(["a", "b", "c"], 0, "u")
    waiting.add(["a"], 0, "u")
    assert (waiting.num_pairs, waiting.num_overflown) == (2, 1)


def test_a_partition_that_has_gone_waits_no_more() -> None:
    waiting = Waiting(10)
    waiting.add(["a"], 0, "u")
    waiting.add(["a"], 1, "v")
    waiting.forget(0)
    assert (waiting.take(["a"]), waiting.num_pairs) == ({1: {"v"}}, 0)


@given(CALLS)
def test_the_count_is_that_of_the_pairs(calls: Any) -> None:
    waiting, pairs = Waiting(1_000), set()
    for kind, item, partition, user in calls:
        if kind == "add":
            waiting.add([item], partition, user)
            pairs.add((item, partition, user))
        elif kind == "remove":
            waiting.remove([item, "c"], partition, user)
            pairs.discard((item, partition, user))
        elif kind == "forget":
            waiting.forget(partition)
            pairs = {pair for pair in pairs if pair[1] != partition}
        else:
            found = waiting.take([item], keep=kind == "keep")
            assert {(p, u) for p, users in found.items() for u in users} == {(p, u) for i, p, u in pairs if i == item}
            pairs = pairs if kind == "keep" else {pair for pair in pairs if pair[0] != item}
        assert waiting.num_pairs == len(pairs)
