"""Raw contents of items to features, modality by modality.

    contents ─► fetch (URIs) ─► reuse ─► decode (processes) ─► pieces ─► batches of equal cost ─► features

One content that cannot be used refuses its item, because a vector made of the rest would pass for the whole.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas import Content, Feature, Reason, judge
from worker.align.device import device_failures
from worker.align.halving import each_by_itself
from worker.encode.batching import cost_batches
from worker.encode.cache import FeatureCache, content_digest
from worker.encode.decoder_pool import DecoderPool, Job
from worker.encode.encoder import Encoder, Piece, RemoteEncoder, RemoteFigures, UnavailableError, unit_rows
from worker.encode.fetch import Fetcher
from worker.encode.media.errors import ContentError, undecodable
from worker.encode.media.forms import Audio, AudioForm, Form, ImageForm, Images, Part, Text, TextForm
from worker.errors import SystemicError

Known = Mapping[str, tuple[bytes, Feature]]
"""Features made of an item's contents before, by modality, each with the digest of its content."""


class Encoded(NamedTuple):
    """An item's contents as features, by modality."""

    features: Mapping[str, Feature]
    digests: Mapping[str, bytes]
    """Digest of the content behind each feature and of how it is encoded: the same digest is the same feature."""


@dataclass(frozen=True, slots=True)
class Route:
    """Which content a modality's features are made of, and how."""

    modality: str
    """Modality of the feature."""
    content: str
    """Key of the content. Several routes may start at one: frames, audio and subtitles of a video. `image+text`: both
    together go into one vector."""
    encoder: Encoder
    max_vectors: int = 1
    """Most vectors the space takes. With one, the vectors of several samples are averaged."""
    samples: int = 1
    """Frames or windows taken of a longer content."""
    needs_all: bool = True
    """Whether all of several contents must be there, as a vector made of some would pass for the whole."""

    @property
    def contents(self) -> tuple[str, ...]:
        return tuple(self.content.split("+"))

    def starts_at(self, contents: Collection[str]) -> bool:
        return (all if self.needs_all else any)(name in contents for name in self.contents)

    @property
    def num_samples(self) -> int:
        return self.samples if self.max_vectors == 1 else min(self.samples, self.max_vectors)


@dataclass(slots=True)
class Figures:
    """Effort of encoding one modality, for metrics."""

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
class Reading:
    """Effort of getting hold of the contents of one name, before any encoder saw them."""

    fetched: int = 0
    fetch_s: float = 0.0
    fetch_failed: int = 0
    decoded: int = 0
    decode_s: float = 0.0


@dataclass(slots=True)
class Report:
    """Effort of one call of `ContentEncoder.encode`."""

    by_modality: defaultdict[str, Figures] = field(default_factory=lambda: defaultdict(Figures))
    by_content: defaultdict[str, Reading] = field(default_factory=lambda: defaultdict(Reading))


@dataclass(slots=True)
class _Work:
    """One content of one item, the routes that start at it, and what has become of them."""

    item: int
    name: str
    content: Content
    routes: tuple[Route, ...]
    data: bytes | str | None = None
    digest: bytes = b""
    parts: dict[str, list[Part | None]] = field(default_factory=dict)
    features: dict[str, Feature] = field(default_factory=dict)
    error: ContentError | None = None
    is_settled: bool = False
    """Nothing is left to do for it."""
    twin: _Work | None = None
    """Work of the same call that does the same."""
    members: tuple[_Work, ...] = ()
    """Where several contents go into one vector: the works that get hold of each of them."""
    is_member: bool = False

    def settle(self) -> None:
        for work in (self, *self.members):
            work.is_settled = True

    def fail(self, error: ContentError, report: Report) -> None:
        self.error = error
        self.settle()
        if self.is_member:
            return  # it counts for what it is a member of
        for route in self.routes:
            report.by_modality[route.modality].failed[error.reason] += 1


def _no_beat() -> None:
    return


class ContentEncoder:
    """Encodes contents along `routes`. Any number of threads may call it; they take turns with an encoder that is here.
    It starts others, and processes.

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
        self.contents = frozenset(name for route in self.routes.values() for name in route.contents)
        """Names of the contents that something is made of."""
        self._pool = pool
        self._fetcher = fetcher
        self._cache = FeatureCache(cache_bytes)
        self._cache_lock = threading.Lock()
        self._turns = {id(route.encoder): threading.Lock() for route in self.routes.values()}

    @property
    def has_remote(self) -> bool:
        """Whether an encoder is elsewhere."""
        return any(isinstance(route.encoder, RemoteEncoder) for route in self.routes.values())

    def remote_figures(self) -> dict[str, RemoteFigures]:
        """Figures of the servers that encode, by modality."""
        return {
            name: route.encoder.figures
            for name, route in self.routes.items()
            if isinstance(route.encoder, RemoteEncoder)
        }

    def modalities(self, contents: Collection[str], present: Collection[str]) -> tuple[str, ...]:
        """Those that features can be made for: of `contents` that are there, for what is not `present` already."""
        return tuple(
            route.modality
            for route in self.routes.values()
            if route.modality not in present and route.starts_at(contents)
        )

    def warm_up(self) -> None:
        """Encode a sample with every encoder, and start the decoders, so that the first item does not wait.

        Raises `SystemicError` for what does not work.
        """
        for route in self.routes.values():
            if not isinstance(route.encoder, RemoteEncoder):  # it has been asked when it was made
                _require_working(route.encoder, None)
        if any(_reads_files(route) for route in self.routes.values()):
            self._pool.warm_up()

    def close(self) -> None:
        self._pool.close()
        if self._fetcher is not None:
            self._fetcher.close()
        for encoder in {id(route.encoder): route.encoder for route in self.routes.values()}.values():
            if isinstance(encoder, RemoteEncoder):
                encoder.close()

    def encode(
        self,
        contents: Sequence[Mapping[str, Content]],
        modalities: Sequence[Collection[str]],
        known: Sequence[Known] | None = None,
        beat: Callable[[], None] = _no_beat,
        trace: str = "",
    ) -> tuple[list[Encoded | ContentError], Report]:
        """The features of each item's contents for its `modalities`, or why it is refused; in order.

        A modality that a content has nothing for (the audio of a silent video) is left out, as long as it has something
        for another. A content behind what is `known` of its item is not encoded again, nor one in the cache, nor one
        twice in this call. `beat` is called after each step that may take long; what it raises ends the call. `trace`
        is a trace context (W3C) that requests to encoders elsewhere carry on.

        Raises `SystemicError` if an encoder fails whatever it is given, and `UnavailableError` if one that is elsewhere
        does not answer: then nothing has become of any item, and the call can be made again.
        """
        report = Report()
        works = self._works(contents, modalities)
        self._require_servers(works, beat)
        self._fetch(works, report, beat)
        _fail_with_members(works, report)
        self._reuse([work for work in works if not work.is_member], known or [{}] * len(contents), report)
        self._decode([work for work in works if not work.members], report, beat)
        _fail_with_members(works, report)
        works = [work for work in works if not work.is_member]
        for work in works:
            _join(work)
        for route in self.routes.values():
            mine = [work for work in works if route in work.routes and not work.is_settled]
            self._encode(route, mine, report, beat, trace)
        for work in works:
            self._settle(work, report)
        return _by_item(works, contents), report

    # ------------------------------------------------------------------ steps

    def _works(self, contents: Sequence[Mapping[str, Content]], modalities: Sequence[Collection[str]]) -> list[_Work]:
        works: list[_Work] = []
        for item, (named, wanted) in enumerate(zip(contents, modalities, strict=True)):
            for name, content in named.items():
                routes = tuple(
                    route for route in self.routes.values() if route.content == name and route.modality in wanted
                )
                if routes:
                    works.append(_Work(item, name, content, routes, _data(content)))
            for route in self.routes.values():
                if len(route.contents) > 1 and route.modality in wanted:
                    members = tuple(
                        _Work(item, name, named[name], (route,), _data(named[name]), is_member=True)
                        for name in route.contents
                        if name in named
                    )
                    if members:
                        works += [*members, _Work(item, route.content, members[0].content, (route,), members=members)]
        return works

    def _require_servers(self, works: Sequence[_Work], beat: Callable[[], None]) -> None:
        """Read no files for a server that is down."""
        for route in self.routes.values():
            if isinstance(route.encoder, RemoteEncoder) and any(route in work.routes for work in works):
                try:
                    route.encoder.require_well(beat)
                except UnavailableError as error:
                    error.modality = route.modality
                    raise

    def _fetch(self, works: Sequence[_Work], report: Report, beat: Callable[[], None]) -> None:
        remote = [work for work in works if work.content.uri is not None and not work.members]
        if self._fetcher is None:
            for work in remote:
                detail = "uri: nothing is fetched; encode.fetch.schemes is empty"
                work.fail(ContentError(Reason.URI_REFUSED, detail), report)
            return
        for work, (result, seconds) in zip(
            remote, self._fetcher.fetch_all([work.content.uri or "" for work in remote]), strict=True
        ):
            reading = report.by_content[work.name]
            reading.fetched += 1
            reading.fetch_s += seconds
            if isinstance(result, ContentError):
                reading.fetch_failed += 1
                work.fail(result, report)
            else:
                work.data = result
            beat()

    def _reuse(self, works: Sequence[_Work], known: Sequence[Known], report: Report) -> None:
        """Settle what was encoded before.

        The digest covers all the routes of a work, so that a modality that a content has nothing for can be told from
        one that was not asked for.
        """
        first: dict[bytes, _Work] = {}
        for work in works:
            if work.members and not work.is_settled:
                work.data = _together(work.members)
            if work.is_settled or work.data is None:
                continue
            work.digest = content_digest(work.data, work.routes)
            if (found := self._found(work, known[work.item])) is not None:
                work.features = found
                work.settle()
                with self._cache_lock:
                    self._cache.put(work.digest, found)
                _count_reused(work, report)
            elif (twin := first.setdefault(work.digest, work)) is not work:
                work.twin = twin
                work.settle()

    def _found(self, work: _Work, known: Known) -> dict[str, Feature] | None:
        mine = [(route.modality, known[route.modality]) for route in work.routes if route.modality in known]
        if mine and all(digest == work.digest for _, (digest, _) in mine):
            return {modality: feature for modality, (_, feature) in mine}
        with self._cache_lock:
            return self._cache.get(work.digest)

    def _decode(self, works: Sequence[_Work], report: Report, beat: Callable[[], None]) -> None:
        waiting = [work for work in works if not work.is_settled]
        files = [(work, work.data) for work in waiting if isinstance(work.data, bytes)]
        jobs = [Job(data, _forms(work.routes)) for work, data in files]
        for (work, _), (result, seconds) in zip(files, self._pool.decode_all(jobs), strict=True):
            reading = report.by_content[work.name]
            reading.decoded += 1
            reading.decode_s += seconds
            if isinstance(result, ContentError):
                work.fail(result, report)
            else:
                _share_out(work, result)
            beat()
        for work in waiting:
            if isinstance(work.data, str):
                try:
                    _share_out(work, [_as_text(work.data, form) for form in _forms(work.routes)])
                    _require_something(work)
                except ContentError as error:
                    work.fail(error, report)

    def _encode(
        self, route: Route, works: Sequence[_Work], report: Report, beat: Callable[[], None], trace: str
    ) -> None:
        """One feature per work; none where its content has nothing for the route."""
        if not works:
            return
        figures = report.by_modality[route.modality]
        started = time.monotonic()
        with self._turns[id(route.encoder)]:
            pieces = [route.encoder.pieces(work.parts.pop(route.modality)) for work in works]
        try:
            rows = self._rows(route.encoder, [piece for several in pieces for piece in several], figures, beat, trace)
        except UnavailableError as error:
            error.modality = route.modality
            raise
        position = 0
        for work, several in zip(works, pieces, strict=True):
            mine = rows[position : position + len(several)]
            position += len(several)
            figures.cut += any(piece.is_cut for piece in several)
            failure = next((row for row in mine if isinstance(row, ContentError)), None)
            if failure is not None:
                work.fail(failure, report)
            elif mine:
                made = {route.modality: _feature(route, mine)}
                judged = judge([made]).get(0)
                if judged is not None and judged.too_large is not None:
                    work.fail(ContentError(Reason.MODEL_FAILURE, judged.problem()), report)
                    continue
                work.features.update(made if judged is None else judged.features)  # of silence there may be nothing
                figures.encoded += 1
        figures.vectors += len(rows)
        figures.encode_s += time.monotonic() - started

    def _rows(
        self, encoder: Encoder, pieces: Sequence[Piece], figures: Figures, beat: Callable[[], None], trace: str
    ) -> list[NDArray[np.float32] | ContentError]:
        """One row per piece, whatever the batches."""
        rows: dict[int, NDArray[np.float32] | ContentError] = {}
        costs = [piece.cost for piece in pieces]
        if isinstance(encoder, RemoteEncoder):
            figures.cost += sum(costs)
            figures.padded_cost += sum(costs)
            return encoder.rows(pieces, beat, trace) if pieces else []
        for batch in cost_batches(costs, encoder.batch_cost):
            with self._turns[id(encoder)]:
                made = isolate(encoder, [pieces[index] for index in batch])
            rows |= zip(batch, made, strict=True)
            figures.padded_cost += len(batch) * max(costs[index] for index in batch)
            beat()
        figures.cost += sum(costs)
        return [rows[index] for index in range(len(pieces))]

    def _settle(self, work: _Work, report: Report) -> None:
        if (twin := work.twin) is not None:
            if twin.error is not None:
                work.fail(twin.error, report)
            else:
                work.features = twin.features
                _count_reused(work, report)
        elif not work.is_settled:
            with self._cache_lock:
                self._cache.put(work.digest, work.features)


def _data(content: Content) -> bytes | str | None:
    return content.text if content.text is not None else content.data


def _together(members: Sequence[_Work]) -> bytes:
    """Stands for several contents, in their order."""
    parts = [(b"t", each.data.encode()) if isinstance(each.data, str) else (b"d", each.data or b"") for each in members]
    named = [
        f"{each.name}:{len(data)}:".encode() + kind + data for each, (kind, data) in zip(members, parts, strict=True)
    ]
    return b"".join(named)


def _fail_with_members(works: Sequence[_Work], report: Report) -> None:
    """A vector of the other contents would pass for the whole."""
    for work in works:
        failed = next((member for member in work.members if member.error is not None), None)
        if failed is not None and failed.error is not None and not work.is_settled:
            work.fail(ContentError(failed.error.reason, f"{failed.name}: {failed.error.detail}"), report)


def _join(work: _Work) -> None:
    """Put the parts of several contents together: each form has its part of the first that has one for it."""
    if not work.members or work.is_settled:
        return
    (route,) = work.routes
    found = [member.parts[route.modality] for member in work.members]
    work.parts[route.modality] = [
        next((part for part in parts if part is not None), None) for parts in zip(*found, strict=True)
    ]


def isolate(encoder: Encoder, pieces: Sequence[Piece]) -> list[NDArray[np.float32] | ContentError]:
    """A row per piece. A batch that fails, or has no memory, is halved until the piece that breaks it is alone.

    Raises `SystemicError` if the encoder fails on a piece known to be good, or a single one finds no memory.
    """
    results = each_by_itself(
        pieces,
        lambda batch: _finite_rows(encoder, batch),
        lambda cause: _require_working(encoder, cause),
        f"no memory to encode one piece with {encoder.name}",
    )
    return [_row_or_error(encoder, result) for result in results]


def _finite_rows(encoder: Encoder, pieces: Sequence[Piece]) -> list[NDArray[np.float32] | None]:
    with device_failures():
        rows = encoder.encode(pieces)
    return [row if np.isfinite(row).all() else None for row in rows]


def _row_or_error(
    encoder: Encoder, result: NDArray[np.float32] | Exception | None
) -> NDArray[np.float32] | ContentError:
    if result is None:
        return ContentError(Reason.MODEL_FAILURE, f"{encoder.name} gives a vector that is not finite")
    if isinstance(result, Exception):
        return ContentError(Reason.MODEL_FAILURE, f"{encoder.name} fails: {type(result).__name__}: {result}")
    return result


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
    if isinstance(form, ImageForm):
        return Images(np.full((1, form.height, form.width, 3), 128, np.uint8), (0.0,))
    if isinstance(form, AudioForm):
        return Audio(np.zeros((1, round(form.rate * form.seconds)), np.float32), (0.0,))
    return Text("a")


def _forms(routes: Sequence[Route]) -> list[Form]:
    return [form for route in routes for form in route.encoder.forms(route.num_samples)]


def _share_out(work: _Work, parts: Sequence[Part | None]) -> None:
    """Give each route the parts it has asked for."""
    position = 0
    for route in work.routes:
        num = len(route.encoder.forms(route.num_samples))
        mine = list(parts[position : position + num])
        if not work.is_member and any(isinstance(part, Images) for part in mine):
            # A title and subtitles go into no vector of frames, where the encoder knows both.
            mine = [None if isinstance(part, Text) else part for part in mine]
        work.parts[route.modality] = mine
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


def _count_reused(work: _Work, report: Report) -> None:
    for route in work.routes:
        report.by_modality[route.modality].reused += 1


def _by_item(works: Sequence[_Work], contents: Sequence[Mapping[str, Content]]) -> list[Encoded | ContentError]:
    """The first failure of an item is the one that is told."""
    made = [Encoded({}, {}) for _ in contents]
    errors: dict[int, ContentError] = {}
    for work in works:
        if work.error is not None:
            detail = f"content.{work.name}: {work.error.detail}"
            errors.setdefault(work.item, ContentError(work.error.reason, detail))
        made[work.item].features.update(work.features)  # type: ignore[attr-defined]  # it is still ours
        made[work.item].digests.update(dict.fromkeys(work.features, work.digest))  # type: ignore[attr-defined]
    return [
        errors.get(item) or (encoded if encoded.features else _nothing(contents[item]))
        for item, encoded in enumerate(made)
    ]


def _reads_files(route: Route) -> bool:
    return any(not isinstance(form, TextForm) for form in route.encoder.forms(1))


def _nothing(contents: Mapping[str, Content]) -> ContentError:
    return undecodable(f"content: {', '.join(contents) or 'none'} holds nothing for any encoder")
