"""The inputs of a campaign: items that live, change in several steps, come in parts, overtake themselves, die and come
back, and what users do to them.

Pure and seeded: the same seed gives the same inputs, but for their event times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import NamedTuple

import numpy as np

from schemas import Feature, NewItem, UserEvent, encode
from tests.brokers import Outgoing

DIMS: Mapping[str, int] = {"text": 16, "image": 8}
ENCODER = "campaign"
POISON_SHARE = 0.005
DISORDER_SHARE = 0.3
DELETE_SHARE = 0.2
NUM_OPEN = 300
"""Items that change during the same stretch of the feed: about this many inputs lie between two of one item."""
ENCODABLE, NOT_A_NUMBER = b"\x11\x11" * DIMS["text"], b"\x00\x7e" * DIMS["text"]
NEIGHBOR_SHARE, NEAR = 0.5, 200
PART_SHARE = 0.3
"""Of the inputs: messages of items that come in parts."""
EPOCH_MS = 1_700_000_000_000
NUM_FEATURES = 1_024  # drawn once: what matters is that consecutive revisions differ


class Step(NamedTuple):
    """One input of an item's life."""

    revision: int
    """0: a delete."""
    modalities: tuple[str, ...] = ()


def life(random: Random) -> list[Step]:
    """An item's inputs in the order in which they are sent.

    The text comes first and the image later; some revisions are sent after newer ones or twice; some items are
    deleted, and some of these begin anew, at revision 1.
    """
    steps = [
        Step(revision, ("text",) if revision == 1 else ("text", "image")) for revision in range(1, 2 + _few(random))
    ]
    if len(steps) > 1 and random.random() < DISORDER_SHARE:
        late = random.randrange(len(steps) - 1)
        steps.insert(random.randrange(late + 1, len(steps)), steps.pop(late))
    if random.random() < 0.1:
        steps.append(steps[-1])
    if random.random() < DELETE_SHARE:
        steps.append(Step(0))
        if random.random() < 0.5:
            steps += [Step(1, ("text",)), Step(2, ("text", "image"))]
    return steps


def _few(random: Random) -> int:
    return random.choice((1, 1, 2, 2, 3, 4))


def interleaved(random: Random, num_open: int = NUM_OPEN) -> Iterator[tuple[str, Step]]:
    """The lives of ever new items, `num_open` at a time, one step after another. Endless."""
    started = iter(range(2**62))
    lives: list[tuple[str, list[Step]]] = []
    while True:
        while len(lives) < num_open:
            lives.append((f"item-{next(started):07d}", life(random)[::-1]))
        index = random.randrange(num_open)
        item_id, rest = lives[index]
        yield item_id, rest.pop()
        if not rest:
            lives[index] = lives[-1]
            lives.pop()


class Inputs:
    """Turns steps into records of the items topic, with poison among them."""

    def __init__(
        self,
        topic: str,
        seed: int,
        now_ms: Callable[[], int],
        poison_share: float = POISON_SHARE,
        part_share: float = 0.0,
        neighbor_share: float = 0.0,
    ) -> None:
        """`neighbor_share`: of the whole messages, those that name neighbours."""
        self._neighbor_share = neighbor_share
        self._part_share = part_share
        self._topic = topic
        self._random = Random(seed)
        self._now_ms = now_ms
        self._poison_share = poison_share
        drawn = np.random.default_rng(seed).standard_normal((NUM_FEATURES, max(DIMS.values())))
        self._features = {
            name: [
                Feature(encoder=ENCODER, dtype="f2", shape=(dim,), data=row[:dim].astype("<f2").tobytes())
                for row in drawn
            ]
            for name, dim in DIMS.items()
        }

    def records(self, num_inputs: int) -> Iterator[Outgoing]:
        steps = interleaved(self._random)
        parts = PartSteps(self._topic, self._random, self._features).records()
        for _ in range(num_inputs):
            if self._part_share and self._random.random() < self._part_share:
                yield next(parts)
                continue
            item_id, step = next(steps)
            good = self._good(item_id, step)
            yield self._poisoned(good) if self._random.random() < self._poison_share else good

    def _good(self, item_id: str, step: Step) -> Outgoing:
        if step.revision == 0:
            return Outgoing(self._topic, item_id.encode(), None)
        message = NewItem(
            item_id=item_id,
            revision=step.revision,
            event_time_ms=self._now_ms(),
            features={name: self._random.choice(self._features[name]) for name in step.modalities},
            neighbors=self._neighbors(item_id),
        )
        return Outgoing(self._topic, message.key, encode(message))

    def _neighbors(self, item_id: str) -> tuple[str, ...]:
        """Others that live at about the same time: some are there, some will be, some have gone."""
        if not self._neighbor_share or self._random.random() >= self._neighbor_share:
            return ()
        number = int(item_id.rpartition("-")[2])
        near = {f"item-{max(0, number + self._random.randrange(-NEAR, NEAR)):07d}" for _ in range(_few(self._random))}
        return tuple(sorted(near - {item_id}))

    def _poisoned(self, good: Outgoing) -> Outgoing:
        """The same record, spoiled in one of the ways that producers spoil records."""
        key = good.key or b""
        value = self._spare(key, ENCODABLE) if good.value is None else good.value
        return self._random.choice(
            (
                good._replace(value=value[: len(value) // 2]),
                good._replace(value=b"not msgpack at all"),
                good._replace(value=value, key=b"another-key"),
                good._replace(value=self._spare(key, b"\0\0" * 5)),
                good._replace(value=self._spare(key, ENCODABLE).replace(ENCODABLE, NOT_A_NUMBER)),
                good._replace(value=encode(NewItem(item_id=key.decode(), revision=9, event_time_ms=self._now_ms()))),
            )
        )

    def _spare(self, key: bytes, text: bytes) -> bytes:
        """A message whose text has these bytes."""
        feature = Feature(encoder=ENCODER, dtype="f2", shape=(len(text) // 2,), data=text)
        features = {"text": feature}
        return encode(NewItem(item_id=key.decode(), revision=9, event_time_ms=self._now_ms(), features=features))


class PartSteps:
    """Items that come in parts, in an order of their own: late, twice, deleted and begun anew. Endless and seeded.

    No two messages of a life have the same revision, so that the result does not depend on their order.
    """

    def __init__(self, topic: str, random: Random, features: Mapping[str, list[Feature]]) -> None:
        self._topic = topic
        self._random = random
        self._features = features

    def records(self) -> Iterator[Outgoing]:
        started = iter(range(2**62))
        open_lives: list[list[Outgoing]] = []
        while True:
            while len(open_lives) < NUM_OPEN:
                open_lives.append(self._life(f"part-{next(started):07d}")[::-1])
            index = self._random.randrange(NUM_OPEN)
            yield open_lives[index].pop()
            if not open_lives[index]:
                open_lives[index] = open_lives[-1]
                open_lives.pop()

    def _life(self, item_id: str) -> list[Outgoing]:
        random = self._random
        messages = [self._message(item_id, revision) for revision in range(1, 2 + _few(random))]
        random.shuffle(messages)
        if random.random() < 0.2:
            messages.append(random.choice(messages))
        if random.random() < DELETE_SHARE:
            messages.append(Outgoing(self._topic, item_id.encode(), None))
            if random.random() < 0.5:
                messages.append(self._message(item_id, 1))
        return messages

    def _message(self, item_id: str, revision: int) -> Outgoing:
        name = self._random.choice(list(self._features))
        message = NewItem(
            item_id=item_id,
            revision=revision,
            event_time_ms=EPOCH_MS + revision,
            features={name: self._random.choice(self._features[name])},
            partial=self._random.random() < 0.9,
        )
        return Outgoing(self._topic, message.key, encode(message))


class Events:
    """What users do: to items that are there, that will be, and that never are; late, twice, and some of it poison."""

    def __init__(self, topic: str, seed: int, num_users: int, num_items: int) -> None:
        self._topic = topic
        self._random = Random(seed)
        self._num_users, self._num_items = num_users, max(1, num_items)

    def records(self, num_events: int) -> Iterator[Outgoing]:
        recent: list[Outgoing] = []
        for number in range(num_events):
            if recent and self._random.random() < 0.03:
                yield self._random.choice(recent)
                continue
            made = self._event(number, number / num_events)
            recent = [*recent[-200:], made]
            yield made._replace(value=b"not msgpack at all") if self._random.random() < POISON_SHARE else made

    def _event(self, number: int, progress: float) -> Outgoing:
        random = self._random
        kind = random.choice(("part", "item"))
        item = f"{kind}-{int(random.random() * self._num_items * min(1.0, progress * 1.2 + 0.01)):07d}"
        user = int(self._num_users * random.random() ** 2)
        made = UserEvent(
            event_id=f"e{number}",
            user_id=f"user-{user:06d}",
            item_id=item,
            event_type=random.choice(("view", "view", "like", "purchase", "dislike", "scroll")),
            event_time_ms=EPOCH_MS + number * 1_000 + random.randrange(-500_000, 500_000),
        )
        return Outgoing(self._topic, made.key, encode(made))
