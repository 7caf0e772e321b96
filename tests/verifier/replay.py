"""What the input logs lead to, computed from the logs alone: plain dictionaries, one item and one user at a time.

Nothing here is shared with the worker but the model, and even that sees one item or user at a time. What is to be
shown is that batches, order, crashes and duplicates on the way make no difference.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from schemas import Feature, NewItem, SchemaError, UserEvent, decode
from worker.align import AlignRuntime, Contract, Refusal, Space
from worker.align.users import NO_ROW, Histories
from worker.align.weights import build_model, build_user_model

Vectors = dict[str, NDArray[np.float32]]


class Replay:
    def __init__(self, space: Space, items: Iterable[Any], events: Iterable[Any] = ()) -> None:
        """`items` and `events` are the records of the two logs, in order within each partition."""
        self._space = space
        items = list(items)
        lives = _lives(space, items)
        self.had_neighbors = _with_neighbors(items) if space.spec.graph is not None else frozenset[str]()
        """Items that have named neighbours at any time, so that one input of them may have several outputs."""
        self.features = _final_features(space, lives)
        """By item: what its messages leave of it."""
        self.neighbors = {item_id: _neighbors(messages) for item_id, messages in lives.items()}
        self.attributes = {item_id: attributes_of(messages) for item_id, messages in lives.items()}
        self.histories = histories(space, events)

    @cached_property
    def items(self) -> Vectors:
        runtime = AlignRuntime(self._space, device="cpu", dtype="float32", threads=1, max_batch=1)
        base = {item_id: runtime.embed([features]).vectors[0] for item_id, features in self.features.items()}
        if self._space.spec.graph is None:
            return base
        attention, most = build_model(self._space.spec, self._space.weights).graph, self._space.spec.graph.max_neighbors
        found = dict(base)
        for item_id, vector_D in base.items():
            neighbors = [base[other] for other in self.neighbors[item_id] if other in base][:most]
            if neighbors:
                neighbors_1ND, mask_1N = torch.from_numpy(np.stack([neighbors])), torch.ones(1, len(neighbors)).bool()
                found[item_id] = attention(torch.from_numpy(vector_D[None]), neighbors_1ND, mask_1N)[0].numpy()
        return found

    def users(self, published: Mapping[str, NDArray[np.float32]] | None = None) -> Vectors:
        """The vector of every user that has one, from the item vectors as they are published, or as computed here."""
        user = self._space.spec.user
        assert user is not None
        model = build_user_model(self._space.spec, self._space.weights)
        vectors = self.items if published is None else published
        rows = {item_id: row for row, item_id in enumerate(vectors)}
        table_RD = torch.from_numpy(np.stack([*vectors.values(), np.zeros(self._space.spec.dim, np.float32)])).half()
        found = {}
        for user_id, events in self.histories.items():
            made = model(
                table_RD,
                Histories(
                    torch.tensor([[rows.get(each.item_id, NO_ROW) for each in events]]),
                    torch.tensor([[each.event_time_ms for each in events]]),
                    torch.tensor([[user.event_weights[each.event_type] for each in events]]),
                ),
            )
            if bool(made.usable_U[0]):
                found[user_id] = made.vectors_UD[0].numpy()
        return found


def _lives(space: Space, records: Iterable[Any]) -> dict[str, list[NewItem]]:
    """The messages of each item since it was last deleted, as they came, without those that cannot be used."""
    contract = Contract(space.spec)
    lives: dict[str, list[NewItem]] = {}
    for record in records:
        if record.value is None:
            lives[(record.key or b"").decode()] = []
            continue
        try:
            item = decode(NewItem, record.value)
        except SchemaError:
            continue
        refusal = contract.check(item.features)
        is_useful = not isinstance(refusal, Refusal) or (
            item.partial
            and refusal.reason == "no_modality"
            and (bool(item.attributes) or (space.spec.graph is not None and bool(item.neighbors)))
        )
        if record.key == item.key and is_useful:
            lives.setdefault(item.item_id, []).append(item)
    return lives


def _final_features(space: Space, lives: Mapping[str, list[NewItem]]) -> dict[str, Mapping[str, Feature]]:
    """Features of each item that is left. Of each modality the newest counts that no later whole message or delete has
    ended."""
    names = space.spec.modalities
    found = {item_id: features_of(messages, names) for item_id, messages in lives.items() if messages}
    return {item_id: features for item_id, features in found.items() if features}


def features_of(messages: Iterable[NewItem], names: Container[str]) -> dict[str, Feature]:
    """What the messages of an item, in the order of the log, leave of the modalities that are named."""
    by_revision = sorted(messages, key=lambda message: message.revision)  # stable: equal ones stay in the log's order
    features: dict[str, Feature] = {}
    for message in by_revision:
        if not message.partial:
            features = {}
        features |= {name: each for name, each in message.features.items() if name in names}
    return dict(sorted(features.items()))


def attributes_of(messages: Iterable[NewItem]) -> dict[str, Any]:
    """The same of attributes."""
    attributes: dict[str, Any] = {}
    for message in sorted(messages, key=lambda message: message.revision):
        attributes = {**(attributes if message.partial else {}), **message.attributes}
    return attributes


def _with_neighbors(records: Iterable[Any]) -> frozenset[str]:
    found = set()
    for record in records:
        with contextlib.suppress(SchemaError):
            if record.value is not None and (item := decode(NewItem, record.value)).neighbors:
                found.add(item.item_id)
    return frozenset(found)


def _neighbors(messages: list[NewItem]) -> tuple[str, ...]:
    """Those that count by the same rule; a partial message without any says nothing of them."""
    neighbors: tuple[str, ...] = ()
    for message in sorted(messages, key=lambda message: message.revision):
        if message.neighbors or not message.partial:
            neighbors = message.neighbors
    return neighbors


def histories(space: Space, records: Iterable[Any]) -> dict[str, list[UserEvent]]:
    """The newest events of each user, in order of time."""
    user = space.spec.user
    by_user: dict[str, dict[str, UserEvent]] = {}
    for record in records:
        try:
            event = decode(UserEvent, record.value or b"")
        except SchemaError:
            continue
        if user is None or record.key != event.key or event.event_type not in user.event_weights:
            continue
        known = by_user.setdefault(event.user_id, {})
        if event.event_id not in known or _order(event) > _order(known[event.event_id]):
            known[event.event_id] = event
    last = user.last if user else 0
    return {user_id: sorted(events.values(), key=_order)[-last:] for user_id, events in by_user.items()}


def _order(event: UserEvent) -> tuple[int, str, str, str]:
    return event.event_time_ms, event.event_id, event.item_id, event.event_type
