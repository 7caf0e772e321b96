"""Raw contents of items to features, modality by modality.

    contents ─► reuse ─► fetch (URIs) ─► decode (processes) ─► pieces ─► batches of equal cost ─► features

One content that cannot be used refuses its item, because a vector made of the rest would pass for the whole.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from schemas import Content, Feature, Reason
from worker.align import OutOfMemoryError
from worker.align.device import device_failures
from worker.encode.batching import cost_batches
from worker.encode.cache import FeatureCache, content_key
from worker.encode.decoder_pool import DecoderPool, Job
from worker.encode.encoder import Encoder, Piece, unit_rows
from worker.encode.fetch import Fetcher
from worker.encode.media.errors import ContentError, undecodable
from worker.encode.media.forms import Form, Part, PictureForm, Pictures, Sound, SoundForm, Text, TextForm
from worker.errors import SystemicError

log = logging.getLogger(__name__)

Features = Mapping[str, Feature]


@dataclass(frozen=True, slots=True)
class Route:
    """Which content a modality's features are made of, and how."""

    modality: str
    """Of the feature."""
    content: str
    """Key of the content. Several routes may start at one: frames, sound and subtitles of a film."""
    encoder: Encoder
    max_vectors: int = 1
    """Most vectors the space takes. With one, the vectors of several samples are averaged."""
    samples: int = 1
    """Frames or windows taken of a longer content."""

    @property
    def num_samples(self) -> int:
        return self.samples if self.max_vectors == 1 else min(self.samples, self.max_vectors)


@dataclass(slots=True)
class Figures:
    """What encoding one modality took, for metrics."""

    encoded: int = 0
    reused: int = 0
    cut: int = 0
    """Contents longer than the encoder takes."""
    vectors: int = 0
    cost: int = 0
    padded_cost: int = 0
    encode_s: float = 0.0
    failed: Counter[Reason] = field(default_factory=Counter)


@dataclass(slots=True)
class Report:
    """What one call of `ContentEncoder.encode` took."""

    by_modality: defaultdict[str, Figures] = field(default_factory=lambda: defaultdict(Figures))
    fetch_s: float = 0.0
    decode_s: float = 0.0
    fetched: int = 0


@dataclass(slots=True)
class _Work:
    """One content of one item, and the routes that start at it."""

    item: int
    name: str
    content: Content
    routes: list[Route]
    data: bytes | str | None = None
    parts: dict[str, list[Part | None]] = field(default_factory=dict)


class ContentEncoder:
    """Encodes contents along `routes`. One thread at a time; it starts others, and processes.

    Without a fetcher a URI is refused.
    """

    def __init__(
        self,
        routes: Iterable[Route],
        pool: DecoderPool,
        fetcher: Fetcher | None = None,
        *,
        cache_bytes: int = 64 * 2**20,
    ) -> None:
        self.routes = {route.modality: route for route in routes}
        self._pool = pool
        self._fetcher = fetcher
        self._cache = FeatureCache(cache_bytes)

    def modalities(self, contents: Collection[str], present: Collection[str]) -> tuple[str, ...]:
        """Those that features can be made for: of `contents` that are there, for what is not `present` already."""
        return tuple(
            route.modality
            for route in self.routes.values()
            if route.content in contents and route.modality not in present
        )

    def warm_up(self) -> None:
        """Encode a sample with every encoder, so that the first item does not wait. Raises `SystemicError`."""
        for route in self.routes.values():
            _require_working(route.encoder, None)

    def close(self) -> None:
        self._pool.close()
        if self._fetcher is not None:
            self._fetcher.close()

    def encode(
        self, contents: Sequence[Mapping[str, Content]], modalities: Sequence[Collection[str]]
    ) -> tuple[list[Features | ContentError], Report]:
        """The features of each item's contents for its `modalities`, or why it is refused; in order.

        A modality that a content has nothing for (the sound of a silent film) is left out, as long as it has something
        for another. Raises `SystemicError` if an encoder fails whatever it is given.
        """
        report = Report()
        features: list[dict[str, Feature]] = [{} for _ in contents]
        errors: dict[int, ContentError] = {}
        works = self._works(contents, modalities)
        self._fetch(works, errors, report)
        keys = self._reuse(works, features, report)
        self._decode(works, errors, report)
        for route in self.routes.values():
            todo = [work for work in works if route in work.routes and work.item not in errors]
            for work, feature in zip(todo, self._encode(route, todo, errors, report), strict=True):
                if work.item in errors:
                    continue
                self._cache.put(keys[work.item, route.modality], feature)
                if feature is not None:
                    features[work.item][route.modality] = feature
        results: list[Features | ContentError] = [
            errors.get(item) or found or _nothing(contents[item]) for item, found in enumerate(features)
        ]
        return results, report

    # ------------------------------------------------------------------ steps

    def _works(self, contents: Sequence[Mapping[str, Content]], modalities: Sequence[Collection[str]]) -> list[_Work]:
        works: list[_Work] = []
        for item, (named, wanted) in enumerate(zip(contents, modalities, strict=True)):
            for name, content in named.items():
                routes = [self.routes[each] for each in self.routes if each in wanted]
                routes = [route for route in routes if route.content == name]
                if routes:
                    data = content.text if content.text is not None else content.data
                    works.append(_Work(item, name, content, routes, data))
        return works

    def _fetch(self, works: Sequence[_Work], errors: dict[int, ContentError], report: Report) -> None:
        remote = [work for work in works if work.content.uri is not None]
        if not remote:
            return
        started = time.monotonic()
        if self._fetcher is None:
            refusal = ContentError(Reason.URI_REFUSED, "uri: nothing is fetched; encode.fetch.schemes is empty")
            fetched: Sequence[bytes | ContentError] = [refusal] * len(remote)
        else:
            fetched = self._fetcher.fetch_all([work.content.uri or "" for work in remote])
        for work, result in zip(remote, fetched, strict=True):
            if isinstance(result, ContentError):
                _fail(work, result, errors, report)
            else:
                work.data = result
        report.fetched += len(remote)
        report.fetch_s += time.monotonic() - started

    def _reuse(
        self, works: Sequence[_Work], features: Sequence[dict[str, Feature]], report: Report
    ) -> dict[tuple[int, str], tuple[str, bytes]]:
        """Takes what is known from the cache and its routes out of the work.

        Of a content all routes are known or none counts: one alone cannot tell a content that has nothing for it from
        one that has nothing at all.
        """
        keys: dict[tuple[int, str], tuple[str, bytes]] = {}
        for work in works:
            if work.data is None:
                continue
            mine = {route.modality: content_key(route.modality, work.data) for route in work.routes}
            keys |= {(work.item, modality): key for modality, key in mine.items()}
            if not all(key in self._cache for key in mine.values()):
                continue
            work.routes = []
            for modality, key in mine.items():
                report.by_modality[modality].reused += 1
                if (feature := self._cache.get(key)) is not None:
                    features[work.item][modality] = feature
        return keys

    def _decode(self, works: Sequence[_Work], errors: dict[int, ContentError], report: Report) -> None:
        started = time.monotonic()
        waiting = [work for work in works if work.routes and work.item not in errors]
        files = [(work, work.data) for work in waiting if isinstance(work.data, bytes)]
        jobs = [Job(data, _forms(work.routes)) for work, data in files]
        for (work, _), result in zip(files, self._pool.decode_all(jobs), strict=True):
            if isinstance(result, ContentError):
                _fail(work, result, errors, report)
            else:
                _share_out(work, result)
        for work in waiting:
            if isinstance(work.data, str):
                try:
                    _share_out(work, [_as_text(work.data, form) for form in _forms(work.routes)])
                    _require_something(work)
                except ContentError as error:
                    _fail(work, error, errors, report)
        report.decode_s += time.monotonic() - started

    def _encode(
        self, route: Route, works: Sequence[_Work], errors: dict[int, ContentError], report: Report
    ) -> list[Feature | None]:
        """One feature per work, None where its content has nothing for the route or its item has failed."""
        figures = report.by_modality[route.modality]
        started = time.monotonic()
        pieces = [route.encoder.pieces(work.parts[route.modality]) for work in works]
        rows = self._rows(route.encoder, [piece for several in pieces for piece in several], figures)
        features: list[Feature | None] = []
        position = 0
        for work, several in zip(works, pieces, strict=True):
            mine = rows[position : position + len(several)]
            position += len(several)
            figures.cut += any(piece.is_cut for piece in several)
            failure = next((row for row in mine if isinstance(row, ContentError)), None)
            if failure is not None:
                _fail(work, failure, errors, report)
            features.append(_feature(route, mine) if mine and failure is None else None)
        figures.encoded += sum(feature is not None for feature in features)
        figures.vectors += len(rows)
        figures.encode_s += time.monotonic() - started
        return features

    def _rows(
        self, encoder: Encoder, pieces: Sequence[Piece], figures: Figures
    ) -> list[NDArray[np.float32] | ContentError]:
        """One row per piece, whatever the batches."""
        rows: dict[int, NDArray[np.float32] | ContentError] = {}
        costs = [piece.cost for piece in pieces]
        for batch in cost_batches(costs, encoder.batch_cost):
            rows |= zip(batch, isolate(encoder, [pieces[index] for index in batch]), strict=True)
            figures.padded_cost += len(batch) * max(costs[index] for index in batch)
        figures.cost += sum(costs)
        return [rows[index] for index in range(len(pieces))]


def isolate(encoder: Encoder, pieces: Sequence[Piece]) -> list[NDArray[np.float32] | ContentError]:
    """A row per piece. A batch that fails, or has no memory, is halved until the piece that breaks it is alone.

    Raises `SystemicError` if the encoder fails on a piece known to be good, or a single one finds no memory.
    """
    try:
        with device_failures():
            rows = encoder.encode(pieces)
    except SystemicError:
        raise
    except Exception as error:  # whatever a model raises, only the piece that causes it may suffer
        if len(pieces) == 1:
            if isinstance(error, OutOfMemoryError):
                raise SystemicError(f"no memory to encode one piece with {encoder.name}: {error}") from error
            _require_working(encoder, error)
            return [ContentError(Reason.MODEL_FAILURE, f"{encoder.name} fails: {type(error).__name__}: {error}")]
        log.warning("batch of %d failed, halving it: %s", len(pieces), error, extra={"action": "bisect"})
        middle = len(pieces) // 2
        return isolate(encoder, pieces[:middle]) + isolate(encoder, pieces[middle:])
    bad = ContentError(Reason.MODEL_FAILURE, f"{encoder.name} gives a vector that is not finite")
    return [row if np.isfinite(row).all() else bad for row in rows]


def _require_working(encoder: Encoder, cause: Exception | None) -> None:
    sample = [_sample(form) for form in encoder.forms(1)]
    try:
        rows = encoder.encode(encoder.pieces(sample))
    except Exception as error:
        raise SystemicError(f"the encoder {encoder.name} fails on everything: {cause or error}") from error
    if not np.isfinite(rows).all():
        raise SystemicError(f"the encoder {encoder.name} gives vectors that are not finite, even of a good sample")


def _sample(form: Form) -> Part:
    """A content that every encoder can encode."""
    if isinstance(form, PictureForm):
        return Pictures(np.full((1, form.height, form.width, 3), 128, np.uint8), (0.0,))
    if isinstance(form, SoundForm):
        return Sound(np.zeros((1, round(form.rate * form.seconds)), np.float32), (0.0,))
    return Text("a")


def _forms(routes: Sequence[Route]) -> list[Form]:
    return [form for route in routes for form in route.encoder.forms(route.num_samples)]


def _share_out(work: _Work, parts: Sequence[Part | None]) -> None:
    """Give each route the parts it has asked for."""
    position = 0
    for route in work.routes:
        num = len(route.encoder.forms(route.num_samples))
        work.parts[route.modality] = list(parts[position : position + num])
        position += num


def _as_text(text: str, form: Form) -> Part | None:
    return Text(text[: form.chars]) if isinstance(form, TextForm) else None


def _require_something(work: _Work) -> None:
    if not str(work.data).strip():
        raise undecodable("the text is empty")
    if all(part is None for parts in work.parts.values() for part in parts):
        raise undecodable("came as text, which its encoder does not take")


def _feature(route: Route, rows: Sequence[NDArray[np.float32] | ContentError]) -> Feature:
    rows_ND = np.stack([row for row in rows if not isinstance(row, ContentError)])
    if route.max_vectors == 1:
        return Feature.from_numpy(unit_rows(rows_ND.mean(axis=0, keepdims=True))[0], encoder=route.encoder.name)
    return Feature.from_numpy(rows_ND[: route.max_vectors], encoder=route.encoder.name)


def _fail(work: _Work, error: ContentError, errors: dict[int, ContentError], report: Report) -> None:
    """The first failure of an item is the one that is told."""
    for route in work.routes:
        report.by_modality[route.modality].failed[error.reason] += 1
    errors.setdefault(work.item, ContentError(error.reason, f"content.{work.name}: {error.detail}"))


def _nothing(contents: Mapping[str, Content]) -> ContentError:
    return undecodable(f"content: {', '.join(contents) or 'none'} holds nothing for any encoder")
