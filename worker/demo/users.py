"""The second half of the demo: people act, their vectors move, and new items find those who like them.

U users   I items   L latent dimensions of the generated world   K length of a list
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from schemas import UserEvent
from worker.demo.items import steadily
from worker.demo.outside import Outside, now_ms
from worker.demo.progress import Progress, latency_text, say
from worker.recommend.search import search
from worker.synthetic import THEMES, Audience, Catalogue, SyntheticEvent, SyntheticItem
from worker.synthetic.audience import DAY_MS, LIKE_FROM, user_id

NUM_USERS = 500
HISTORY_DAYS = 30
LIST_LENGTH = 10
NUM_SHOWN = 4
YOU, EARLY = "you", "early-bird"
FIRST_CLICKS, SECOND_CLICKS = (2, 2), (9, 4)
"""A theme, and how many items of it are liked."""
NUM_NEW = 5
NUM_TOLD = 20


class People:
    """A generated audience at work, and one more user whose clicks are ours."""

    def __init__(self, outside: Outside, catalogue: Catalogue, seed: int, event_weights: Mapping[str, float]) -> None:
        """`event_weights` are the space's: events of other types would never be in a vector, and are not sent."""
        self._outside = outside
        self._event_weights = event_weights
        self._audience = Audience(catalogue, NUM_USERS, seed, now_ms() - HISTORY_DAYS * DAY_MS)
        self._seen: defaultdict[str, set[str]] = defaultdict(set)
        self._num_clicks = 0

    def load(self, num_events: int) -> None:
        """Send what the audience has done lately, as fast as the worker takes it."""
        say(f"\n{NUM_USERS} users: {num_events} events of the last {HISTORY_DAYS} days")
        outside = self._outside
        progress, started = Progress(num_events, "events"), time.monotonic()
        for event in self._audience.events(list(outside.fed.values()), num_events, now_ms()):
            self._send(event)
        outside.until(
            lambda: not outside.is_waiting(),
            "the users' vectors",
            lambda: progress.show(len(outside.event_latencies_ms), outside.event_latencies_ms),
        )
        elapsed = time.monotonic() - started
        progress.done(f"{num_events / elapsed:,.0f} events/s over {elapsed:.1f} s")

    def live(self, rate: float, seconds: float) -> None:
        """A steady trickle: what an event takes to be in a readable vector."""
        say(f"\nnow {rate:.0f} events a second for {seconds:.0f} s")
        outside, begin_ms = self._outside, now_ms()
        outside.event_latencies_ms.clear()
        progress = Progress(int(rate * seconds), "events")
        # Their times are those of a clock that runs from now on, and so nearly those at which they are sent.
        coming = self._audience.events(list(outside.fed.values()), int(rate * seconds), begin_ms + int(1000 * seconds))
        for due in steadily(rate, seconds):
            for _, event in zip(range(due), coming, strict=False):
                self._send(event)
            outside.read(0.002)
            progress.show(len(outside.event_latencies_ms), outside.event_latencies_ms)
        outside.until(lambda: not outside.is_waiting(), "the last events")
        num_done = len(outside.event_latencies_ms)
        progress.done(f"event → readable user vector: {latency_text(outside.event_latencies_ms)} ({num_done} events)")

    def show_fit(self) -> None:
        """Show that recommendations fit what users like, which only the generator knows."""
        users = sorted(self._outside.users)
        items, vectors_ID = self._items()
        vectors_UD = torch.from_numpy(np.stack([self._outside.users[each].vector for each in users]))
        rows = {item_id: row for row, item_id in enumerate(items)}
        seen = [{rows[item_id] for item_id in self._seen[each]} for each in users]
        hits = search(vectors_UD, vectors_ID, LIST_LENGTH, without=seen)
        affinity_UI = self._tastes(users) @ np.stack([self._outside.fed[item_id].latent_L for item_id in items]).T
        fit = np.mean([affinity_UI[row, [hit.item for hit in found]].mean() for row, found in enumerate(hits)])
        say(
            f"the {LIST_LENGTH} items recommended suit a user's true taste with a cosine of {fit:.2f}; any item with "
            f"{affinity_UI.mean():.2f}, the {LIST_LENGTH} that suit best with "
            f"{np.sort(affinity_UI, axis=1)[:, -LIST_LENGTH:].mean():.2f}"
        )

    def click(self) -> None:
        """A user whom nobody knows likes a few items of one theme, and then of another."""
        say("\na new user, “you”: without a click there is nothing to recommend")
        for theme, count in (FIRST_CLICKS, SECOND_CLICKS):
            liked = [item for item in self._outside.fed.values() if item.theme == theme][:count]
            before = self._outside.users.get(YOU)
            latency_ms = self._like(YOU, liked)
            moved = "" if before is None else f" (cosine to before {before.vector @ self._vector(YOU):.2f})"
            say(f"you like {', '.join(item.title for item in liked)}")
            say(f"  {latency_ms:.0f} ms later your vector has it{moved}; recommended:")
            self._show_recommended(YOU)

    def new_items(self, items: Iterator[SyntheticItem]) -> None:
        """Items that have just appeared, and the users whom they suit best."""
        say(f"\n{NUM_NEW} new items, and for each the {NUM_TOLD} users whom it suits best")
        users = sorted(self._outside.users.keys() - {YOU, EARLY})
        tastes_UL = self._tastes(users)
        latencies_ms, shares, share_of_all = [], [], []
        for _, item in zip(range(NUM_NEW), items, strict=False):
            started = time.monotonic()
            self._outside.send_item(item)
            self._outside.until(lambda item=item: item.item_id in self._outside.items, "a new item")  # type: ignore[misc]
            vectors_UD = torch.from_numpy(np.stack([self._outside.users[each].vector for each in users]))
            (told,) = search(torch.from_numpy(self._outside.items[item.item_id])[None], vectors_UD, NUM_TOLD)
            latencies_ms.append((time.monotonic() - started) * 1000)
            like_it_U = tastes_UL @ item.latent_L >= LIKE_FROM
            shares.append(like_it_U[[hit.item for hit in told]].mean())
            share_of_all.append(like_it_U.mean())
            say(f"  {latencies_ms[-1]:>5.0f} ms  {item.title:<24}  of those users {shares[-1]:.0%} like it")
        say(
            f"produce → its users known: {np.median(latencies_ms):.0f} ms in the middle, {max(latencies_ms):.0f} ms at "
            f"most; {np.mean(shares):.0%} of them truly like the item, of all users {np.mean(share_of_all):.0%}"
        )

    def click_too_early(self, items: Iterator[SyntheticItem]) -> None:
        """A click on an item that has no vector yet counts as soon as it has one."""
        item = next(items)
        self._click(EARLY, item, now_ms())
        started = time.monotonic()
        self._outside.send_item(item)
        self._outside.until(lambda: not self._outside.is_waiting(EARLY), "a user who waits for an item")
        say(
            f"a click on {item.title}, sent before the item was: its user has a vector "
            f"{(time.monotonic() - started) * 1000:.0f} ms after the item came"
        )

    # ------------------------------------------------------------------ steps

    def _send(self, event: SyntheticEvent) -> None:
        if event.event_type in self._event_weights:
            self._seen[event.user_id].add(event.item.item_id)
            self._outside.send_event(event.message())

    def _click(self, user: str, item: SyntheticItem, at_ms: int) -> None:
        """An event of the type that is worth most."""
        self._num_clicks += 1
        self._seen[user].add(item.item_id)
        self._outside.send_event(
            UserEvent(
                event_id=f"click-{self._num_clicks}", user_id=user, item_id=item.item_id, event_time_ms=at_ms,
                event_type=max(self._event_weights, key=lambda name: self._event_weights[name]),
            )
        )  # fmt: skip

    def _like(self, user: str, items: Sequence[SyntheticItem]) -> float:
        """Milliseconds from the last click to a vector in hand that has all of them."""
        for number, item in enumerate(items, start=now_ms()):  # a time of its own for each
            self._click(user, item, number)
        started = time.monotonic()
        self._outside.until(lambda: not self._outside.is_waiting(user), "your vector")
        return (time.monotonic() - started) * 1000

    def _show_recommended(self, user: str) -> None:
        items, vectors_ID = self._items()
        seen = {row for row, item_id in enumerate(items) if item_id in self._seen[user]}
        (hits,) = search(torch.from_numpy(self._vector(user))[None], vectors_ID, LIST_LENGTH, without=[seen])
        found = [self._outside.fed[items[hit.item]] for hit in hits]
        for hit, item in list(zip(hits, found, strict=True))[:NUM_SHOWN]:
            say(f"      {hit.score:.3f}  {item.title}")
        themes = Counter(THEMES[item.theme] for item in found)
        say(f"      the first {len(found)}: {', '.join(f'{count} {theme}' for theme, count in themes.most_common())}")

    def _vector(self, user: str) -> NDArray[np.float32]:
        return self._outside.users[user].vector

    def _items(self) -> tuple[list[str], torch.Tensor]:
        items = list(self._outside.items)
        return items, torch.from_numpy(np.stack([self._outside.items[item_id] for item_id in items]))

    def _tastes(self, users: Sequence[str]) -> NDArray[np.float64]:
        numbers = {user_id(number): number for number in range(self._audience.num_users)}
        numbers_U = np.array([numbers[each] for each in users])
        return self._audience.tastes(numbers_U, np.full(len(users), now_ms()))
