"""Questions about published vectors, and their answers.

A question is a vector: a user's, an item's, or a query's. The answer is the items with the highest scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from worker.errors import ConfigError
from worker.recommend.published import Activity, PublishedItems, PublishedUser
from worker.recommend.search import Hit, search

ScoreKind = Literal["cosine", "cosine+prior"]
NUM_NAMED = 8


@dataclass(frozen=True, slots=True)
class Question:
    kind: Literal["user", "like", "text", "file"]
    subject: str
    """The user, item or text that is asked about."""
    vector: NDArray[np.float32]
    without: frozenset[int] = frozenset()
    """Rows of items that are no answer."""
    told: Mapping[str, Any] = field(default_factory=dict)
    """Further facts about the subject."""


@dataclass(frozen=True, slots=True)
class Search:
    """How all questions of a call are answered."""

    count: int = 10
    among: str | None = None
    """The modality whose own vectors are searched; None: the fused ones."""
    lacking: str | None = None
    """Only items in whose vector this modality took no part."""
    score: ScoreKind | None = None
    """None: `cosine+prior` for a user, as evaluation scores, else `cosine`."""

    def score_of(self, question: Question) -> ScoreKind:
        return self.score or ("cosine+prior" if question.kind == "user" else "cosine")


@dataclass(frozen=True, slots=True)
class Answer:
    question: Question
    score: ScoreKind
    hits: Sequence[Hit]

    def as_dict(self, items: PublishedItems, titles: Mapping[str, str]) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {
            self.question.kind: self.question.subject,
            **self.question.told,
            "score": self.score,
            "items": [
                {
                    "item_id": items.item_ids[hit.item],
                    "title": titles.get(items.item_ids[hit.item]),
                    "score": round(hit.score, 6),
                    "modalities": list(items.modalities[hit.item]),
                    **({"attributes": dict(items.attributes[hit.item])} if items.attributes else {}),
                }
                for hit in self.hits
            ],
        }


def of_user(
    user_id: str, users: Mapping[str, PublishedUser], activity: Mapping[str, Activity] | None, items: PublishedItems
) -> Question:
    """Items for a user; without what the user has seen, where `activity` is known."""
    user, mine = require_user(user_id, users.get(user_id), items.space_id), activity_of(user_id, activity)
    seen = frozenset(items.rows[item_id] for item_id in (mine.items if mine else ()) if item_id in items.rows)
    return Question("user", user_id, user.vector, seen, told_of(user, mine))


def require_user(user_id: str, user: PublishedUser | None, space_id: str) -> PublishedUser:
    """Raises `ConfigError` for a user without a vector."""
    if user is None:
        raise ConfigError(
            f"--user {user_id!r}: there is no vector of this user in space {space_id}. It appears with the user's "
            "first event of a type that the space weighs, with an item that has a vector"
        )
    return user


def activity_of(user_id: str, activity: Mapping[str, Activity] | None) -> Activity | None:
    """What a user has done; None where nobody has looked."""
    return None if activity is None else activity.get(user_id, Activity())


def told_of(user: PublishedUser, mine: Activity | None) -> dict[str, Any]:
    """Facts about a user, beside the answer."""
    told: dict[str, Any] = {"num_events": user.num_events, "newest_event": time_of(user.event_time_ms)}
    if mine is not None:
        told["num_seen"] = len(mine.items)
        told["latest"] = [
            {"event_type": event.event_type, "item_id": event.item_id, "at": time_of(event.event_time_ms)}
            for event in reversed(mine.latest)
        ]
    return told


def like_item(item_id: str, items: PublishedItems, by: str | None, prefix: int | None = None) -> Question:
    """Items like an item, or like one modality of it; with `prefix` only those with so many of its codes."""
    row = items.rows.get(item_id)
    if row is None:
        raise ConfigError(f"--like {item_id!r}: there is no vector of this item in space {items.space_id}")
    vectors_ID = items.vectors_ID
    if by is not None:
        _require_modality(items, "--by", by)
        vectors_ID = items.alone[by]
        if not vectors_ID[row].any():
            has = ", ".join(items.modalities[row])
            raise ConfigError(f"--by {by}: item {item_id!r} has no vector of {by} alone; it was made of {has}")
    vector: NDArray[np.float32] = vectors_ID[row].cpu().numpy()
    told: dict[str, Any] = {} if by is None else {"by": by}
    without = frozenset({row})
    if prefix is not None:
        begins = _prefix(item_id, row, items, prefix)
        told["codes"] = list(begins[1])
        others = (number for number, codes in enumerate(items.codes) if not _has_prefix(codes, begins))
        without = frozenset({row, *others})
    return Question("like", item_id, vector, without, told)


Coded = tuple[str, tuple[int, ...]]


def _prefix(item_id: str, row: int, items: PublishedItems, prefix: int) -> Coded:
    codes = items.codes[row]
    if codes is None:
        raise ConfigError(
            f"--prefix {prefix}: item {item_id!r} was published without codes; a space gets them by `align-worker "
            "space codes`, and an item when it is published again"
        )
    if prefix > len(codes[1]):
        raise ConfigError(f"--prefix {prefix}: item {item_id!r} has {len(codes[1])} codes")
    return codes[0], codes[1][:prefix]


def _has_prefix(codes: Coded | None, begins: Coded) -> bool:
    return codes is not None and codes[0] == begins[0] and codes[1][: len(begins[1])] == begins[1]


def answer(questions: Sequence[Question], items: PublishedItems, how: Search) -> list[Answer]:
    """In the order of the questions."""
    vectors_ID, among_I = items.vectors_ID, torch.ones(len(items.item_ids), dtype=torch.bool)
    if how.among is not None:
        _require_modality(items, "--among", how.among)
        vectors_ID, among_I = items.alone[how.among], items.has(how.among).cpu()
    if how.lacking is not None:
        among_I &= torch.tensor([how.lacking not in names for names in items.modalities])
    answers: dict[int, Answer] = {}
    for score in ("cosine", "cosine+prior"):
        chosen = [number for number, question in enumerate(questions) if how.score_of(question) == score]
        if not chosen:
            continue
        queries_QD = torch.from_numpy(np.stack([questions[number].vector for number in chosen])).to(vectors_ID.device)
        hits = search(
            queries_QD,
            vectors_ID,
            how.count,
            priors_I=items.priors_I if score == "cosine+prior" else None,
            among_I=among_I.to(vectors_ID.device),
            without=[questions[number].without for number in chosen],
        )
        answers |= {
            number: Answer(questions[number], how.score_of(questions[number]), found)
            for number, found in zip(chosen, hits, strict=True)
        }
    return [answers[number] for number in range(len(questions))]


def _require_modality(items: PublishedItems, flag: str, modality: str) -> None:
    if items.has(modality).any():
        return
    used = sorted({name for names in set(items.modalities) for name in names})
    if modality in used:
        raise ConfigError(
            f"{flag} {modality}: no vector of {modality} alone is published; set publish.modality_vectors=true on the "
            "worker, and have it process the items again"
        )
    raise ConfigError(f"{flag} {modality}: no item has this modality; there is {', '.join(used[:NUM_NAMED])}")


def time_of(ms: int) -> str:
    """In UTC, to the second."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
