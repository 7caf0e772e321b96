"""The verifier of final vectors and states finds what it is there to find."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from schemas import DeadLetter, Feature, ItemVector, NewItem, Reason, Tensor, UserEvent, UserVector, encode
from tests.fakes import FakeRecord
from tests.verifier.finals import FinalVerdict, judge
from tests.verifier.replay import Replay
from worker.align import Space, command, create_space
from worker.align.history import Event
from worker.align.spec import GraphSpec, SpaceSpec
from worker.state.items import ItemState, ModalityState
from worker.state.users import UserState

FEATURE = Feature.from_numpy(np.arange(4, dtype=np.float16), encoder="e")
NOT_AN_EVENT = FakeRecord("events", 0, 1, 0, b"u", b"\xc1")

Logs = dict[str, list[Any]]


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Space:
    path: Path = tmp_path_factory.mktemp("finals") / "space"
    command.create(path, {"text": 4}, dim=4)
    return Space.load(path)


def tensor(values: Any) -> Tensor:
    return Tensor(dtype="f4", shape=(4,), data=np.asarray(values, "<f4").tobytes())


@pytest.fixture
def logs(space: Space) -> Logs:
    """One item, one user with one event, and one event that cannot be read: all as it should be."""
    message = NewItem(item_id="i", revision=1, event_time_ms=5, features={"text": FEATURE})
    event = UserEvent(event_id="e", user_id="u", item_id="i", event_type="like", event_time_ms=7)
    inputs = [FakeRecord("items", 0, 0, 0, b"i", encode(message))]
    events = [FakeRecord("events", 0, 0, 0, event.key, encode(event)), NOT_AN_EVENT]
    replay = Replay(space, inputs, events)
    return {
        "items": inputs,
        "events": events,
        "item_vectors": [item_vector(space, replay.items["i"])],
        "user_vectors": [user_vector(space, replay.users()["u"])],
        "item_state": [FakeRecord(key=b"i", value=ItemState(0, 1, 1, 5, {"text": ModalityState(1, FEATURE)}).encode())],
        "user_state": [FakeRecord(key=b"u", value=UserState(0, [Event(7, "e", "i", "like")]).encode())],
        "dead_letters": [letter(space)],
    }


def item_vector(space: Space, values: Any, source_offset: int = 0) -> FakeRecord:
    vector = ItemVector(
        item_id="i", revision=1, event_time_ms=5, space_id=space.space_id, vector=tensor(values), modalities=("text",),
        produced_at_ms=0, source_offset=source_offset,
    )  # fmt: skip
    return FakeRecord(key=b"i", value=encode(vector))


def user_vector(space: Space, values: Any, at_ms: int = 7) -> FakeRecord:
    vector = UserVector(
        user_id="u", event_time_ms=at_ms, num_events=1, space_id=space.space_id, vector=tensor(values), produced_at_ms=0
    )
    return FakeRecord(key=b"u", value=encode(vector))


def letter(space: Space) -> FakeRecord:
    made = DeadLetter(
        key=NOT_AN_EVENT.key, value=NOT_AN_EVENT.value, topic="events", partition=0, offset=1, timestamp=0,
        reason=Reason.NOT_MSGPACK, stage="decode", detail="", worker_version="1", space_id=space.space_id,
        failed_at_ms=0,
    )  # fmt: skip
    return FakeRecord(key=b"u", value=encode(made))


def _priced(record: FakeRecord) -> FakeRecord:
    fields = {**msgpack.unpackb(record.value), "attributes": {"price": 1}}
    return replace(record, value=msgpack.packb(fields))


def judged(logs: Logs, space: Space, strict: bool = True) -> FinalVerdict:
    return judge(logs, space, events_topic="events", strict=strict)


def test_what_is_right_is_found_right(logs: Logs, space: Space) -> None:
    verdict = judged(logs, space)
    assert verdict.ok, verdict.explain()
    assert (verdict.counts["items"], verdict.counts["users"]) == (1, 1)


Change = Callable[[Logs, Space], None]
WRONG: dict[str, tuple[str, Change]] = {
    "an item's vector is off": (
        "items",
        lambda logs, space: logs.update(item_vectors=[item_vector(space, [1, 0, 0, 0])]),
    ),
    "an item has a price that nobody sent": (
        "attributes",
        lambda logs, space: logs.update(item_vectors=[_priced(logs["item_vectors"][0])]),
    ),
    "a state has lost its price": ("item_state", lambda logs, space: logs.update(items=[_priced(logs["items"][0])])),
    "an item has no vector": ("items", lambda logs, space: logs["item_vectors"].clear()),
    "a user's vector is off": (
        "users",
        lambda logs, space: logs.update(user_vectors=[user_vector(space, [1, 0, 0, 0])]),
    ),
    "a user has no vector": ("users", lambda logs, space: logs["user_vectors"].clear()),
    "an item is published twice": ("order", lambda logs, space: logs["item_vectors"].append(logs["item_vectors"][0])),
    "a user goes back": (
        "order",
        lambda logs, space: logs["user_vectors"].insert(0, user_vector(space, [1, 0, 0, 0], at_ms=9)),
    ),
    "an item's state is gone": ("item_state", lambda logs, space: logs["item_state"].clear()),
    "a history has lost an event": (
        "user_state",
        lambda logs, space: logs.update(user_state=[FakeRecord(key=b"u", value=UserState(0, []).encode())]),
    ),
    "a dead letter is missing": ("letters", lambda logs, space: logs["dead_letters"].clear()),
    "a dead letter is written twice": ("letters", lambda logs, space: logs["dead_letters"].append(letter(space))),
}


@pytest.mark.parametrize(("rule", "change"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_found(logs: Logs, space: Space, rule: str, change: Change) -> None:
    change(logs, space)
    assert rule in judged(logs, space).num_breaches


def test_an_older_output_after_a_newer_one_is_wrong_in_any_delivery(logs: Logs, space: Space) -> None:
    newer = item_vector(space, np.frombuffer(FEATURE.data, "<f2").astype("<f4"), source_offset=3)
    logs["item_vectors"].insert(0, newer)
    assert "order" in judged(logs, space, strict=False).num_breaches


def test_an_item_with_neighbours_may_have_several_outputs_of_one_input(tmp_path: Path) -> None:
    plain = command.create(tmp_path / "plain", {"text": 4}, dim=4)
    fields = plain.spec.model_dump(include=set(SpaceSpec.model_fields))
    spec = SpaceSpec.model_validate({**fields, "graph": GraphSpec(width=2, max_neighbors=2)})
    space = create_space(tmp_path / "graph", spec, seed=1)

    def order_breaches(neighbors: tuple[str, ...]) -> int:
        message = NewItem(item_id="i", revision=1, event_time_ms=5, features={"text": FEATURE}, neighbors=neighbors)
        inputs = [FakeRecord("items", 0, 0, 0, b"i", encode(message))]
        made = item_vector(space, Replay(space, inputs).items["i"])
        empty: Logs = {name: [] for name in ("events", "user_vectors", "user_state", "dead_letters", "item_state")}
        logs = {**empty, "items": inputs, "item_vectors": [made, made]}
        return judge(logs, space, events_topic="events", strict=True).num_breaches["order"]

    assert order_breaches(("another",)) == 0
    assert order_breaches(()) == 1
