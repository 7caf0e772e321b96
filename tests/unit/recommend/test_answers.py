"""Which items are the answer, and what is said where there is none."""

from typing import Any

import numpy as np
import pytest

from tests.unit.recommend.published import SPACE, event, item_vector, user_vector, world
from worker.errors import ConfigError, DataError
from worker.recommend.answers import Search, answer, like_item, of_user
from worker.recommend.published import LeftOut, collect_activity, collect_items, collect_users

ITEMS, USERS, EVENTS = world()


def ask(question: Any, how: Any = None, items: Any = None) -> Any:
    """The ids of the answer."""
    items = items or published()
    (found,) = answer([question], items, how or Search())
    return [items.item_ids[hit.item] for hit in found.hits]


def published(alone: Any = ("text", "image")) -> Any:
    return collect_items(ITEMS, SPACE, alone)


def user(name: Any, activity: Any = True) -> Any:
    left_out = LeftOut()
    return of_user(
        name, collect_users(USERS, SPACE, 2, left_out), collect_activity(EVENTS, left_out) if activity else None,
        published(),
    )  # fmt: skip


def test_a_user_is_not_shown_what_was_seen_liked_or_not() -> None:
    assert ask(user("ada"), Search(score="cosine")) == ["rightish", "upish"]
    assert ask(user("ada", activity=False), Search(score="cosine")) == ["right", "rightish", "upish", "up"]


def test_the_prior_counts_for_a_user_unless_told_otherwise() -> None:
    assert ask(user("ada")) == ["upish", "rightish"]
    assert ask(like_item("right", published(), None)) == ["rightish", "upish", "up"]
    assert ask(like_item("right", published(), None), Search(score="cosine+prior"))[0] == "upish"


def test_what_is_told_of_a_user() -> None:
    told = user("ada").told
    assert told["num_seen"] == 2
    assert [each["item_id"] for each in told["latest"]] == ["up", "right"]
    assert told["newest_event"] == "1970-01-01T00:00:05Z"
    assert "num_seen" not in user("ada", activity=False).told


def test_one_modality_of_an_item_among_another_of_all() -> None:
    items = published()
    assert ask(like_item("rightish", items, "text"), Search(among="image")) == ["right", "up"]
    assert ask(like_item("rightish", items, "image"), Search(among="image")) == ["up", "right"]
    assert ask(like_item("rightish", items, "image"), Search(among="text"))[:2] == ["up", "upish"]


def test_the_shelf_of_new_items() -> None:
    """Those in whose vector behaviour took no part."""
    assert ask(user("bob"), Search(lacking="behavior")) == ["rightish", "right"]
    assert ask(user("bob"), Search(lacking="text")) == []


def test_answers_are_in_the_order_of_the_questions_whatever_their_scores() -> None:
    items = published()
    asked = [like_item("up", items, None), user("ada"), like_item("right", items, None)]
    answers = answer(asked, items, Search(count=1))
    assert [each.question for each in answers] == asked
    assert [each.score for each in answers] == ["cosine", "cosine+prior", "cosine"]
    assert [items.item_ids[each.hits[0].item] for each in answers] == ["upish", "upish", "rightish"]


def test_unknown_users_items_and_modalities_are_named() -> None:
    with pytest.raises(ConfigError, match=r"--user 'eve': there is no vector of this user in space 0123"):
        user("eve")
    with pytest.raises(ConfigError, match=r"--like 'down': there is no vector of this item"):
        like_item("down", published(), None)
    with pytest.raises(ConfigError, match=r"--by image: item 'upish' has no vector of image alone.*behavior, text"):
        like_item("upish", published(), "image")
    with pytest.raises(ConfigError, match=r"--among smell: no item has this modality; there is behavior, image, text"):
        ask(like_item("up", published(), None), Search(among="smell"), published(alone=("smell",)))
    with pytest.raises(ConfigError, match=r"--among behavior.*publish\.modality_vectors=true"):
        ask(like_item("up", published(), None), Search(among="behavior"), published(alone=("behavior",)))


def test_vectors_of_another_space_are_ignored_and_counted() -> None:
    other = [item_vector(f"far-{n}", 1, 0, 0, space_id="other") for n in range(9)]
    items = collect_items([*other, *ITEMS], SPACE)
    assert len(items.item_ids) == 4
    assert items.left_out.other_spaces == {"other": 9}
    left_out = LeftOut()
    assert collect_users([user_vector("ada", 1, 0, space_id="other")], SPACE, 2, left_out) == {}
    assert left_out.other_spaces == {"other": 1}


def test_without_a_space_the_one_with_most_items_is_taken() -> None:
    other = [item_vector(f"far-{n}", 1, 0, 0, space_id="other") for n in range(9)]
    items = collect_items([*ITEMS, *other])
    assert (items.space_id, len(items.item_ids)) == ("other", 9)
    assert items.left_out.other_spaces == {SPACE: 4}


def test_nothing_of_the_space_is_an_error() -> None:
    with pytest.raises(DataError, match="there is no item vector of space other; there are 4 of other spaces"):
        collect_items(ITEMS, "other")
    with pytest.raises(DataError, match=r"there is no item vector$"):
        collect_items([])


def test_a_vector_of_other_dims_is_counted_and_harms_no_other() -> None:
    items = collect_items([*ITEMS, item_vector("odd", 1, 2, 3)], SPACE)
    assert len(items.item_ids) == 4
    assert items.left_out.first_unreadable == "item 'odd': not a vector of 2 elements"


def test_halves_are_searched_as_float32() -> None:
    half = [each.model_copy(update={"vector": type(each.vector).from_numpy(each.vector.to_numpy())}) for each in ITEMS]
    items = collect_items(half, SPACE)
    assert items.vectors_ID.numpy().dtype == np.float32
    assert ask(like_item("right", items, None), items=items) == ["rightish", "upish", "up"]


def test_only_the_latest_events_are_told_and_each_id_once() -> None:
    events = [event("ada", f"item-{n}", n) for n in range(20)]
    activity = collect_activity([*events[::-1], *events], LeftOut())["ada"]
    assert [each.item_id for each in activity.latest] == [f"item-{n}" for n in range(15, 20)]
    assert len(activity.items) == 20


def coded() -> Any:
    return collect_items(
        [
            item_vector("a", 1, 0, codes=(1, 2, 3), code_space_id="c"),
            item_vector("b", 0, 1, codes=(1, 2, 9), code_space_id="c"),
            item_vector("c", 9, 1, codes=(1, 7, 3), code_space_id="c"),
            item_vector("d", 9, 2, codes=(1, 2, 3), code_space_id="older"),
            item_vector("e", 9, 3),
        ],
        SPACE,
    )


def test_a_prefix_leaves_items_whose_codes_begin_alike_by_the_same_books() -> None:
    items = coded()
    assert ask(like_item("a", items, None), items=items) == ["c", "d", "e", "b"]
    assert ask(like_item("a", items, None, 1), items=items) == ["c", "b"]
    assert ask(like_item("a", items, None, 2), items=items) == ["b"]
    assert ask(like_item("a", items, None, 3), items=items) == []
    assert like_item("a", items, None, 2).told["codes"] == [1, 2]


def test_a_prefix_of_what_has_no_codes_or_fewer_is_refused() -> None:
    with pytest.raises(ConfigError, match="--prefix 1: item 'e' was published without codes"):
        like_item("e", coded(), None, 1)
    with pytest.raises(ConfigError, match="--prefix 4: item 'a' has 3 codes"):
        like_item("a", coded(), None, 4)
