"""Another space in the place of the live one, between two batches: loaded and warm beside it, tried on the next items
that are published, then served. Nothing drains, and nothing is published again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal, Protocol

from schemas import AnyFeature
from worker.align.result import unpack_rows
from worker.errors import RolloutError
from worker.loop.pipeline import Pipeline
from worker.roles.items import ItemsRole
from worker.roles.users import UsersRole
from worker.rollout.plan import PlannedSpace
from worker.stages.fuse import Result, Vector
from worker.vector_health import References, VectorWatch

log = logging.getLogger(__name__)

LEAST_TRIED = 64
"""Items that it is tried on at least."""
LEAST_AGREEMENT = 0.9
"""Of the mean cosine that was measured between the two spaces, what is found."""

Recent = Sequence[tuple[Mapping[str, AnyFeature], Vector]]


class Candidate(Protocol):
    """The space that is to come, loaded and warm."""

    @property
    def dim(self) -> int: ...
    @property
    def dtype(self) -> Literal["f2", "f4"]: ...
    @property
    def references(self) -> References | None: ...
    @property
    def expected_cosine(self) -> float:
        """Of an item's vectors in the two spaces, as `space relate` has measured it."""
        ...

    def vectors(self, features: Sequence[Mapping[str, AnyFeature]]) -> list[Result]: ...

    def take_over(self, pipeline: Pipeline) -> None:
        """Serve it from the next batch on."""
        ...


class HotSwap:
    """One thread."""

    def __init__(self, pipelines: Sequence[Pipeline], load: Callable[[PlannedSpace], Candidate]) -> None:
        """`load` may take seconds, and raises `WorkerError` for a space that cannot come."""
        # Users first: they have to know vectors of the new space's items before there are any.
        self._pipelines = sorted(pipelines, key=lambda each: not isinstance(each.role, UsersRole))
        self._load = load
        self._loaded: tuple[str, Candidate] | None = None

    def expect(self, space_ids: Collection[str]) -> None:
        """Others may publish vectors of these spaces from now on."""
        for pipeline in self._pipelines:
            if isinstance(pipeline.role, UsersRole):
                pipeline.role.dependents.catalogue.count_too(space_ids)

    def step(self, planned: PlannedSpace) -> str:
        """Go on with it; returns what it waits for, or nothing once the space is served. Raises `WorkerError` where it
        is not to be."""
        if self._loaded is None or self._loaded[0] != planned.space_id:
            self._loaded = planned.space_id, self._load(planned)
        candidate = self._loaded[1]
        recent = self._recent()
        if recent is not None:
            if len(recent) < LEAST_TRIED:
                return f"the swap waits: {len(recent)} of the {LEAST_TRIED} items that it is tried on have come"
            found = tried(candidate, recent)
            self.give_up()
            if found:
                raise RolloutError(f"tried on {len(recent)} items: {'; '.join(found)}")
        for pipeline in self._pipelines:
            candidate.take_over(pipeline)
        self.give_up()
        log.info("space %s is served in the place of the one before", planned.space_id, extra={"action": "swapped"})
        return ""

    def give_up(self) -> None:
        """No space is to come, or none any more."""
        self._loaded = None
        for pipeline in self._pipelines:
            if isinstance(pipeline.role, ItemsRole) and pipeline.role.tried is not None:
                pipeline.role.tried.forget_recent()

    def _recent(self) -> Recent | None:
        """The last items here; None where none are published here."""
        for pipeline in self._pipelines:
            if isinstance(pipeline.role, ItemsRole):
                return () if pipeline.role.tried is None else pipeline.role.tried.recent()
        return None


def tried(candidate: Candidate, recent: Recent) -> list[str]:
    """What speaks against a space after items that have just been published were put through it."""
    results = candidate.vectors([features for features, _ in recent])
    pairs = [(result, before) for result, (_, before) in zip(results, recent, strict=True) if type(result) is Vector]
    if len(pairs) < len(recent):
        return [f"{len(recent) - len(pairs)} of them have no vector in it"]
    made_ID, before_ID = (
        unpack_rows([each.data for each in vectors], candidate.dim, candidate.dtype)
        for vectors in ([made for made, _ in pairs], [before for _, before in pairs])
    )
    found = []
    cosine, least = float((made_ID * before_ID).sum(1).mean()), LEAST_AGREEMENT * candidate.expected_cosine
    if cosine < least:
        found.append(f"their vectors have a cosine of {cosine:.2f} with those before; it takes {least:.2f}")
    watch = VectorWatch(candidate.references, candidate.dim)
    watch.add(made_ID, [made.modalities for made, _ in pairs])
    found += [f"{each.check}: {each.detail}" for each in watch.findings if each.is_ill]
    return found
