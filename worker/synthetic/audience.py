"""Users with tastes that change, and what they do.

For each event a user is shown some items that are out by then, drawn by popularity, and takes one: mostly by how well
it fits the user's taste at the time, sometimes just any. How well it fits decides between a like, a view and a dislike.

A taste is a latent vector like an item's: two themes and something of the user's own. Each user has a series of them
and goes from one to the next, and from the last to the first, in `drift_ms` each.

    U users   P tastes of a user   L latent dimensions   E events drawn together   C items shown for one event
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from schemas import UserEvent
from worker.synthetic.catalogue import LATENT_DIM, OWN_PART, Catalogue, Floats, Ints, SyntheticItem, unit

DAY_MS = 86_400_000
NUM_TASTES = 4
NUM_SHOWN = 40
SHARPNESS = 12.0  # times cosine: how decided users are
WANDER_SHARE = 0.1  # of events in which the taste has no say
ACTIVITY_SIGMA = 0.7  # of the logarithm of how much a user does
LIKE_FROM, DISLIKE_BELOW = 0.4, 0.0  # cosine of taste and item
CHUNK = 4_096  # events drawn together


@dataclass(frozen=True, slots=True)
class SyntheticEvent:
    """An event and the truth about it."""

    event_id: str
    user: int
    item: SyntheticItem
    event_type: str
    """`like`, `view` or `dislike`."""
    event_time_ms: int
    affinity: float
    """Cosine of the item and the user's taste at the time."""

    @property
    def user_id(self) -> str:
        return user_id(self.user)

    def message(self) -> UserEvent:
        return UserEvent(
            event_id=self.event_id,
            user_id=self.user_id,
            item_id=self.item.item_id,
            event_type=self.event_type,
            event_time_ms=self.event_time_ms,
        )


def user_id(user: int) -> str:
    return f"user-{user:05d}"


class Audience:
    """Users and the sequence of their events. The seed and the calls decide all of them."""

    def __init__(
        self, catalogue: Catalogue, num_users: int, seed: int, start_ms: int, drift_ms: int = 180 * DAY_MS
    ) -> None:
        """`start_ms` is the time of the first event at the earliest, and where tastes begin."""
        self._random = np.random.default_rng([seed, num_users])
        self._now_ms = self._start_ms = start_ms
        self._drift_ms = drift_ms
        self._num_events = 0
        themes = self._random.integers(len(catalogue.themes_TL), size=(2, num_users, NUM_TASTES))
        own_UPL = OWN_PART * unit(self._random.standard_normal((num_users, NUM_TASTES, LATENT_DIM)))
        self._tastes_UPL = unit(catalogue.themes_TL[themes].sum(axis=0) + own_UPL)
        activity_U = np.exp(ACTIVITY_SIGMA * self._random.standard_normal(num_users))
        self._activity_U = activity_U / activity_U.sum()

    @property
    def num_users(self) -> int:
        return len(self._activity_U)

    def tastes(self, users_E: Ints, times_ms_E: Ints) -> Floats:
        """`[E, L]`: what users like at given times, of unit length."""
        step, share_E = np.divmod((times_ms_E - self._start_ms) / self._drift_ms, 1)
        before_E, after_E = step.astype(np.int64) % NUM_TASTES, (step.astype(np.int64) + 1) % NUM_TASTES
        share_E1 = share_E[:, None]
        return unit(
            (1 - share_E1) * self._tastes_UPL[users_E, before_E] + share_E1 * self._tastes_UPL[users_E, after_E]
        )

    def events(
        self,
        items: Sequence[SyntheticItem],
        num_events: int,
        end_ms: int,
        released_ms: Sequence[int] | Ints | None = None,
    ) -> Iterator[SyntheticEvent]:
        """Events with these items, in order of time, from where the last call ended until `end_ms`.

        Take all of them before the next call: they are drawn as they are taken.
        `released_ms` says from when on each item is shown; without it, all are from the beginning. Events that would
        come before the first release are missing.
        """
        releases = np.array([0] * len(items) if released_ms is None else released_ms, np.int64)
        order = np.argsort(releases, kind="stable")
        latent_IL = np.stack([items[number].latent_L for number in order])
        popularity_I = np.cumsum([items[number].popularity for number in order])
        times_ms = np.sort(self._random.integers(self._now_ms, end_ms, size=num_events, endpoint=True))
        times_ms = times_ms[times_ms >= releases[order[0]]]
        self._now_ms = end_ms
        for start in range(0, len(times_ms), CHUNK):
            times_ms_E = times_ms[start : start + CHUNK]
            users_E = self._random.choice(self.num_users, size=len(times_ms_E), p=self._activity_U)
            # Items are in order of release and their popularity is summed, so the sum of those out ends the range.
            num_out_E = np.searchsorted(releases[order], times_ms_E, side="right")
            drawn_EC = self._random.random((len(times_ms_E), NUM_SHOWN)) * popularity_I[num_out_E - 1, None]
            shown_EC = np.minimum(np.searchsorted(popularity_I, drawn_EC, side="right"), num_out_E[:, None] - 1)
            tastes_EL = self.tastes(users_E, times_ms_E)
            taken_E = self._taken(tastes_EL, latent_IL, shown_EC)
            affinity_E = np.einsum("el,el->e", tastes_EL, latent_IL[taken_E])
            for user, row, time_ms, affinity in zip(
                users_E.tolist(), order[taken_E].tolist(), times_ms_E.tolist(), affinity_E.tolist(), strict=True
            ):
                yield SyntheticEvent(
                    f"event-{self._num_events:08d}", user, items[row], _type_of(affinity), time_ms, affinity
                )
                self._num_events += 1

    def _taken(self, tastes_EL: Floats, latent_IL: Floats, shown_EC: Ints) -> Ints:
        """Choose one of the items shown: one drawn by the softmax of its fit, or the first."""
        fit_EC = np.einsum("el,ecl->ec", tastes_EL, latent_IL[shown_EC])
        choice_E = np.argmax(SHARPNESS * fit_EC + self._random.gumbel(size=fit_EC.shape), axis=1)
        choice_E[self._random.random(len(choice_E)) < WANDER_SHARE] = 0
        taken_E: Ints = shown_EC[np.arange(len(shown_EC)), choice_E]
        return taken_E


def _type_of(affinity: float) -> str:
    return "like" if affinity >= LIKE_FROM else "dislike" if affinity < DISLIKE_BELOW else "view"
