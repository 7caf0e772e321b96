"""A generated world as files, with cold items that come late."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from schemas import UserEvent
from worker.data.dataset import Bools, Ints
from worker.data.importers.output import Imported, TitledItem
from worker.errors import ConfigError
from worker.synthetic import MODALITIES, Audience, Catalogue, SyntheticItem
from worker.synthetic.audience import DAY_MS

START_MS = 1_704_067_200_000  # the first day of 2024
LATE_FROM = 0.8  # of the time; late items are released from then on


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of a synthetic data set."""

    num_items: int = 2_000
    num_users: int = 500
    num_events: int = 50_000
    days: int = 360
    drift_days: int = 360
    """In which a taste turns into the user's next."""
    cold_share: float = 0.15
    """Share of the items that are released late."""
    missing_share: float = 0.2
    clutter_share: float = 0.0
    max_vectors: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.max_vectors:
            if name not in MODALITIES:
                raise ConfigError(f"--max-vectors: there is no modality {name!r}; there are {', '.join(MODALITIES)}")

    @property
    def catalogue(self) -> Catalogue:
        """The generated catalogue, with its latent vectors."""
        return Catalogue(
            self.seed,
            missing_share=self.missing_share,
            max_vectors=self.max_vectors,
            clutter_share=self.clutter_share,
        )

    @property
    def audience(self) -> Audience:
        """Its users, with the truth about them."""
        return Audience(self.catalogue, self.num_users, self.seed, START_MS, self.drift_days * DAY_MS)

    def imported(self) -> Imported:
        """Items, events, and the lists `cold_val` and `cold_test`, half of the late items each."""
        items = list(self.catalogue.items(self.num_items))
        late_I, released_ms_I = self._releases()
        late = [items[number].item_id for number in np.flatnonzero(late_I)]
        lists = {"cold_val": late[::2], "cold_test": late[1::2]} if late else {}
        return Imported(_titled(items, released_ms_I), self._events(items, released_ms_I), lists)

    def _releases(self) -> tuple[Bools, Ints]:
        random = np.random.default_rng([self.seed, self.num_items])
        late_I = np.zeros(self.num_items, bool)
        late_I[random.permutation(self.num_items)[: round(self.cold_share * self.num_items)]] = True
        from_day_I = random.uniform(LATE_FROM, 1, self.num_items) * self.days
        released_ms_I: Ints = np.where(late_I, START_MS + (from_day_I * DAY_MS).astype(np.int64), START_MS)
        return late_I, released_ms_I

    def _events(self, items: list[SyntheticItem], released_ms_I: Ints) -> Iterator[UserEvent]:
        end_ms = START_MS + self.days * DAY_MS
        for event in self.audience.events(items, self.num_events, end_ms, released_ms_I):
            yield event.message()


def _titled(items: list[SyntheticItem], released_ms_I: Ints) -> Iterator[TitledItem]:
    for item, released_ms in zip(items, released_ms_I.tolist(), strict=True):
        yield TitledItem(item.message(revision=1, event_time_ms=released_ms), item.title)
