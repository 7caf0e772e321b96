"""What the logs must end in: the last vectors and the states of items and users, against a replay of the inputs.

Rules, by the names a verdict gives them:

- items, users: the last vector of each item and user is the one that the input logs lead to, and there is no other.
- attributes: those of each item's last vector are what its messages leave of them.
- item_state, user_state: so are the last records of the changelogs.
- letters: every event that cannot be read has its dead letter.
- order: no output of an item comes from an older input than one before it. With `strict` (exactly once, read
  committed), no item output comes twice from one input, and no user goes back in event time. An item with
  neighbours is computed anew when one of them comes, changes or goes, and then has several outputs of one input.

Users are expected to follow their items (`users.follow_changes`), and items their neighbours (`graph.follow_changes`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas import DeadLetter, ItemVector, SchemaError, UserEvent, UserVector, decode, decode_vector
from tests.brokers import read_topic
from tests.verifier.reading import SOURCE_OFFSET_HEADER
from tests.verifier.replay import Replay, Vectors
from worker.align import Space
from worker.state.input_log import KEY as LOG_KEY
from worker.state.items import ItemState
from worker.state.users import UserState

TOLERANCE = 2e-3  # rounding to float16 on the wire and in the table
MAX_EXAMPLES = 10


@dataclass
class FinalVerdict:
    counts: Counter[str] = field(default_factory=Counter)
    breaches: dict[str, list[str]] = field(default_factory=dict)
    num_breaches: Counter[str] = field(default_factory=Counter)
    worst: dict[str, float] = field(default_factory=dict)
    """Largest difference of an element, of items and of users."""

    @property
    def ok(self) -> bool:
        return not self.num_breaches

    def report(self, rule: str, text: str) -> None:
        self.num_breaches[rule] += 1
        if self.num_breaches[rule] <= MAX_EXAMPLES:
            self.breaches.setdefault(rule, []).append(text)

    def explain(self) -> str:
        lines = [f"{rule}: {text}" for rule, texts in self.breaches.items() for text in texts]
        return "\n".join([*lines, *(f"{rule}: {count} in all" for rule, count in self.num_breaches.items())])


def verify_finals(options: Mapping[str, Any], topics: Mapping[str, str], space: Space, *, strict: bool) -> FinalVerdict:
    """`topics` by the names of the `topics.*` settings. Call it when the workers have come to rest."""
    logs = {name: list(read_topic(options, topic)) for name, topic in topics.items()}
    return judge(logs, space, events_topic=topics["events"], strict=strict)


def judge(logs: Mapping[str, Sequence[Any]], space: Space, *, events_topic: str, strict: bool) -> FinalVerdict:
    """Records by topic, each in order within a partition."""
    verdict = FinalVerdict()
    verdict.counts.update({f"{name} records": len(records) for name, records in logs.items()})
    replay = Replay(space, logs["items"], logs["events"])
    items, attributes = _check_item_order(verdict, logs["item_vectors"], replay.had_neighbors, strict)
    _compare(verdict, "items", items, replay.items)
    for item_id, found in attributes.items():
        if found != (expected_attributes := replay.attributes.get(item_id)):
            verdict.report("attributes", f"{item_id}: has {found}, the log leads to {expected_attributes}")
    users = _check_user_order(verdict, logs["user_vectors"], strict)
    expected = replay.users(items)
    # A user all of whose items have gone keeps its last vector: there is nothing that could be said instead.
    for user_id in [user_id for user_id in users if user_id in replay.histories and user_id not in expected]:
        verdict.counts["users with nothing left"] += 1
        del users[user_id]
    _compare(verdict, "users", users, expected)
    _check_states(verdict, logs, replay)
    _check_letters(verdict, logs["events"], logs["dead_letters"], events_topic, strict)
    return verdict


def _check_item_order(
    verdict: FinalVerdict, records: Iterable[Any], recomputed: Collection[str], strict: bool
) -> tuple[Vectors, dict[str, Any]]:
    """Also returns the last vector of each item, and its attributes. `recomputed`: those that may have several outputs
    of one input."""
    newest: dict[bytes, int] = {}
    found: Vectors = {}
    attributes: dict[str, Any] = {}
    for record in records:
        if record.value is None:
            source = int(dict(record.headers)[SOURCE_OFFSET_HEADER])
            found.pop(record.key.decode(), None)
            attributes.pop(record.key.decode(), None)
        else:
            vector = decode_vector(ItemVector, record.value)
            source = vector.source_offset if vector.source_offset is not None else -1
            found[record.key.decode()] = vector.vector.to_numpy().astype(np.float32)
            attributes[record.key.decode()] = vector.attributes
        before = newest.get(record.key, -1)
        if source < before:
            verdict.report("order", f"{record.key!r}: output of input {source} after that of {before}")
        if source == before and record.key.decode() in recomputed:
            verdict.counts["items computed anew"] += 1
        elif source == before:
            verdict.counts["items published twice"] += 1
            if strict:
                verdict.report("order", f"{record.key!r}: two outputs of input {source}")
        newest[record.key] = max(source, before)
    return found, attributes


def _check_user_order(verdict: FinalVerdict, records: Iterable[Any], strict: bool) -> Vectors:
    at_ms: dict[bytes, int] = {}
    found: Vectors = {}
    for record in records:
        vector = decode_vector(UserVector, record.value)
        if vector.event_time_ms < at_ms.get(record.key, 0):
            verdict.counts["users gone back"] += 1
            if strict:
                verdict.report("order", f"{record.key!r}: goes back from {at_ms[record.key]} to {vector.event_time_ms}")
        at_ms[record.key] = vector.event_time_ms
        found[record.key.decode()] = vector.vector.to_numpy().astype(np.float32)
    return found


def _compare(
    verdict: FinalVerdict, rule: str, found: Mapping[str, NDArray[np.float32]], expected: Mapping[str, Any]
) -> None:
    verdict.counts[rule] = len(expected)
    for key in expected.keys() - found.keys():
        verdict.report(rule, f"{key} has no vector")
    for key in found.keys() - expected.keys():
        verdict.report(rule, f"{key} should have no vector")
    off = {key: float(np.abs(found[key] - expected[key]).max()) for key in expected.keys() & found.keys()}
    verdict.worst[rule] = max(off.values(), default=0.0)
    for key, difference in off.items():
        if not difference < TOLERANCE:
            verdict.report(rule, f"{key} is off by {difference:.4f}")


def _check_states(verdict: FinalVerdict, logs: Mapping[str, Sequence[Any]], replay: Replay) -> None:
    states = {key: ItemState.decode(value) for key, value in _last(logs["item_state"]).items()}
    items = {key: _known(state.features, state.values) for key, state in states.items()}
    of_messages = {
        key: _known(replay.features.get(key, {}), attributes) for key, attributes in replay.attributes.items()
    }
    users = {
        key: [tuple(event) for event in UserState.decode(value).events]
        for key, value in _last(logs["user_state"]).items()
    }
    histories = {
        user_id: [(each.event_time_ms, each.event_id, each.item_id, each.event_type) for each in events]
        for user_id, events in replay.histories.items()
    }
    for rule, found, expected in (("item_state", items, of_messages), ("user_state", users, histories)):
        for key in found.keys() | expected.keys():
            if found.get(key) != expected.get(key):
                verdict.report(rule, f"{key}: remembered is {found.get(key)}, the log leads to {expected.get(key)}")


def _known(features: Mapping[str, Any], attributes: Mapping[str, Any]) -> tuple[Any, Any] | None:
    return (dict(features), dict(attributes)) if features or attributes else None


def _last(records: Iterable[Any]) -> dict[str, bytes]:
    last = {record.key.decode(): record.value for record in records if record.key != LOG_KEY}
    return {key: value for key, value in last.items() if value is not None}


def _check_letters(
    verdict: FinalVerdict, events: Iterable[Any], letters: Iterable[Any], events_topic: str, strict: bool
) -> None:
    sources = Counter(
        (letter.topic, letter.partition, letter.offset)
        for letter in (decode(DeadLetter, record.value) for record in letters if record.value is not None)
    )
    verdict.counts["dead letters written twice"] = sum(count - 1 for count in sources.values())
    if strict:
        for source, count in sources.items():
            if count > 1:
                verdict.report("letters", f"{source} has {count} dead letters")
    for record in events:
        if (events_topic, record.partition, record.offset) not in sources and not _is_event(record.value):
            verdict.report("letters", f"event {record.partition}/{record.offset} has no dead letter")


def _is_event(value: bytes | None) -> bool:
    try:
        decode(UserEvent, value or b"")
    except SchemaError:
        return False
    return True
