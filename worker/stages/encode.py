"""The encode stage: raw content of item messages to features, before anything is made of the messages.

It stands between decoding and what is remembered, as decoding does: content that cannot be used must never displace
what can, and what is remembered of an item is features, never content. Threads of its own take whatever waits, so
batches are small while there is little to do and grow while there is much. With more than one, the next batch is read
and sent while the last one is encoded.

An encoder that is elsewhere may not answer. What needs it is put back, and the tenures it belongs to are stalled: the
loop reads no more of their partitions until the encoder is well. Others go on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from schemas import AnyFeature, Reason, as_model
from worker.encode.content import ContentEncoder, Encoded, Known, Report
from worker.encode.encoder import UnavailableError
from worker.encode.media.errors import ContentError
from worker.partitions.tenure import Tenure
from worker.records import Decoded, Item, Rejection, Superseded
from worker.settings import BatchSettings
from worker.stages.stage import Stage
from worker.stages.trace import carried_headers
from worker.state.items import ItemState
from worker.state.overlay import StateOverlay

STAGE = "encode"
STEP_TIMEOUT_S = 0.2
MAX_FILES = 64  # of a batch: what they decode to lies in memory all at once
MAX_TOLD = 5  # failed fetches of a batch that are logged one by one

log = logging.getLogger(__name__)


class _AbandonedError(Exception):
    """Nobody wants the results any more."""


@dataclass(slots=True, eq=False)
class _Portion:
    """Consecutive inputs of one tenure, few enough to be encoded together."""

    tenure: Tenure
    entries: list[Decoded] = field(default_factory=list)
    known: dict[int, Known] = field(default_factory=dict)
    """Known features of items with content, by position."""
    num_bytes: int = 0
    num_files: int = 0
    is_done: bool = False

    def needs(self, modality: str) -> bool:
        """Whether a feature of this modality is to be made for one of its inputs."""
        return any(
            type(entry) is Item and entry.raw is not None and modality in entry.raw.modalities for entry in self.entries
        )

    def add(self, entry: Decoded) -> None:
        self.entries.append(entry)
        self.num_bytes += len(entry.record.value or b"")
        if type(entry) is Item and entry.raw is not None:
            self.num_files += sum(content.text is None for content in entry.raw.content.values())


@dataclass(slots=True)
class ModalityTotals:
    """Totals of one modality since the start."""

    encoder: str
    encoded: int = 0
    reused: int = 0
    refused: int = 0
    encode_s: float = 0.0


class EncodeStage:
    """The poll thread puts inputs in and takes them out again, in order per tenure; `stages` encode meanwhile.

    `on_report` is called on their threads with what a batch took, one call at a time.
    """

    def __init__(
        self,
        encoder: ContentEncoder,
        settings: BatchSettings,
        on_report: Callable[[Report, float], None] = lambda report, seconds: None,
        *,
        lanes: int = 1,
    ) -> None:
        """`lanes`: batches at a time."""
        self.encoder = encoder
        self._settings = settings
        self._on_report = on_report
        self._changed = threading.Condition()
        self._reporting = threading.Lock()
        self._waiting: deque[_Portion] = deque()
        self._held: dict[Tenure, deque[_Portion]] = {}
        """Portions by their tenure, in order, from when they are put in to when they are taken out."""
        self._stalled: dict[Tenure, UnavailableError] = {}
        """By tenure: why nothing of it can be encoded at present."""
        self.num_records = 0
        self.num_bytes = 0
        self.totals = {name: ModalityTotals(route.encoder.name) for name, route in encoder.routes.items()}
        self.stages = tuple(self._lane(f"encode {number}" if number else "encode") for number in range(lanes))

    def _lane(self, name: str) -> Stage:
        stage = Stage(name, lambda: self._step(stage))
        return stage

    @property
    def stage(self) -> Stage:
        """The first of `stages`."""
        return self.stages[0]

    # ------------------------------------------------------------------ poll thread

    def takes(self, tenure: Tenure, entries: Sequence[Decoded]) -> bool:
        """Whether these inputs have to go through here: there is content among them, or before them."""
        return tenure in self._held or any(type(entry) is Item and entry.raw is not None for entry in entries)

    def put(self, tenure: Tenure, entries: Sequence[Decoded]) -> None:
        """Consecutive inputs of a tenure, whose partition has been restored."""
        overlay: StateOverlay[ItemState] | None = tenure.overlay
        assert overlay is not None
        portions = [_Portion(tenure)]
        for entry in entries:
            portion = portions[-1]
            if type(entry) is Item and entry.raw is not None:
                state = overlay.get(entry.id)
                if state is not None and _is_stale(entry, state, overlay):
                    entry = Superseded(entry.record)  # nothing would come of it
                elif state is not None:
                    portion.known[len(portion.entries)] = _known(state)
            portion.add(entry)
            if self._is_enough(len(portion.entries), portion.num_bytes, portion.num_files):
                portions.append(_Portion(tenure))
        with self._changed:
            for portion in portions:
                if portion.entries:
                    self._waiting.append(portion)
                    self._held.setdefault(tenure, deque()).append(portion)
                    self.num_records += len(portion.entries)
                    self.num_bytes += portion.num_bytes
            self._changed.notify_all()

    def take(self) -> list[tuple[Tenure, list[Decoded]]]:
        """Take what has been encoded since the last call: features in place of content, rejections of what cannot be
        used. Never waits."""
        taken: list[tuple[Tenure, list[Decoded]]] = []
        with self._changed:
            for portions in list(self._held.values()):
                while portions and portions[0].is_done:
                    portion = portions[0]
                    self._forget(portion)
                    if portion.tenure.is_live:
                        taken.append((portion.tenure, portion.entries))
        return taken

    def wait(self, timeout_s: float) -> None:
        """Until there is something to take, or nothing more will come."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self._held or any(portions[0].is_done for portions in self._held.values()), timeout_s
            )

    def stalled(self) -> dict[Tenure, str]:
        """Tenures that wait for an encoder which does not answer, and what is said of it."""
        with self._changed:
            return {
                tenure: f"{error.modality}: {error.detail}"
                for tenure, error in self._stalled.items()
                if tenure in self._held
            }

    def is_full(self) -> bool:
        return self.num_records >= self._settings.queue_records or self.num_bytes >= self._settings.queue_bytes

    def is_low(self) -> bool:
        """Half empty: time to fetch again after a pause."""
        return self.num_records * 2 <= self._settings.queue_records and self.num_bytes * 2 <= self._settings.queue_bytes

    def close(self) -> None:
        self.encoder.close()

    # ------------------------------------------------------------------ encode threads

    def _step(self, stage: Stage) -> None:
        portions = self._next()
        if not portions:
            return
        try:
            self._encode(portions, stage)
        except _AbandonedError:
            with self._changed:
                for portion in portions:
                    self._forget(portion)
            return
        except UnavailableError as error:
            self._put_back(portions, error)
            return
        with self._changed:
            for portion in portions:
                portion.is_done = True
                self._stalled.pop(portion.tenure, None)
            self._changed.notify_all()

    def _next(self) -> list[_Portion]:
        """Take as many portions as make a batch, of tenures that still count and are not stalled."""
        portions: list[_Portion] = []
        num_records, num_bytes, num_files = 0, 0, 0
        with self._changed:
            self._changed.wait_for(lambda: any(map(self._is_due, self._waiting)), STEP_TIMEOUT_S)
            left: deque[_Portion] = deque()
            while self._waiting and not self._is_enough(num_records, num_bytes, num_files):
                portion = self._waiting.popleft()
                if not portion.tenure.is_live:
                    self._forget(portion)
                    continue
                if not self._is_due(portion):
                    left.append(portion)
                    continue
                portions.append(portion)
                num_records += len(portion.entries)
                num_bytes += portion.num_bytes
                num_files += portion.num_files
            self._waiting.extendleft(reversed(left))
        return portions

    def _is_due(self, portion: _Portion) -> bool:
        error = self._stalled.get(portion.tenure)
        return error is None or not portion.tenure.is_live or time.monotonic() >= error.retry_at

    def _put_back(self, portions: Sequence[_Portion], error: UnavailableError) -> None:
        """Put back a batch: what needs the encoder is tried again at its time; the rest, at once."""
        with self._changed:
            is_news = not self._stalled
            self._waiting.extendleft(reversed(portions))
            for portion in portions:
                if portion.needs(error.modality):
                    self._stalled[portion.tenure] = error
            self._changed.notify_all()
        if is_news:
            log.warning(
                "%s: %s; what needs it waits", error.modality, error.detail, extra={"action": "encoder_unavailable"}
            )

    def _is_enough(self, num_records: int, num_bytes: int, num_files: int) -> bool:
        settings = self._settings
        return num_records >= settings.max_records or num_bytes >= settings.max_bytes or num_files >= MAX_FILES

    def _encode(self, portions: Sequence[_Portion], stage: Stage) -> None:
        def beat() -> None:
            stage.beat()
            if not any(portion.tenure.is_live for portion in portions):
                raise _AbandonedError

        started = time.monotonic()
        todo = [
            (portion, position, entry)
            for portion in portions
            for position, entry in enumerate(portion.entries)
            if isinstance(entry, Item) and entry.raw is not None
        ]
        raws = [entry.raw for _, _, entry in todo if entry.raw is not None]
        results, report = self.encoder.encode(
            [raw.content for raw in raws],
            [raw.modalities for raw in raws],
            [portion.known.get(position, {}) for portion, position, _ in todo],
            beat,
            _trace([entry for _, _, entry in todo]) if self.encoder.has_remote else "",
        )
        for (portion, position, entry), result in zip(todo, results, strict=True):
            portion.entries[position] = _after(entry, result)
        _tell_failed([entry for _, _, entry in todo], results)
        elapsed_s = time.monotonic() - started
        stage.busy_s += elapsed_s
        with self._reporting:
            self._add(report)
            self._on_report(report, elapsed_s)

    def _add(self, report: Report) -> None:
        for modality, figures in report.by_modality.items():
            totals = self.totals[modality]
            totals.encoded += figures.encoded
            totals.reused += figures.reused
            totals.refused += figures.failed.total()
            totals.encode_s += figures.encode_s

    def _forget(self, portion: _Portion) -> None:
        self.num_records -= len(portion.entries)
        self.num_bytes -= portion.num_bytes
        key = portion.tenure
        self._held[key].remove(portion)
        if not self._held[key]:
            del self._held[key]
            self._stalled.pop(key, None)


def _trace(items: Sequence[Item]) -> str:
    """The trace context of the first item that has one: a batch goes to a server as a whole."""
    for item in items:
        for name, value in carried_headers(item.record):
            if name == "traceparent" and value is not None:
                return value.decode("ascii")
    return ""


def _tell_failed(items: Sequence[Item], results: Sequence[Encoded | ContentError]) -> None:
    """Log which items had to be given up because a server was late or failed, and its URI."""
    failed = [
        (item, result)
        for item, result in zip(items, results, strict=True)
        if isinstance(result, ContentError) and result.reason is Reason.FETCH_FAILED
    ]
    for item, error in failed[:MAX_TOLD]:
        log.warning("item %r: %s", item.id, error.detail, extra={"action": "fetch_failed", "item_id": item.id})
    if len(failed) > MAX_TOLD:
        log.warning(
            "%d more items of the batch could not be fetched", len(failed) - MAX_TOLD, extra={"action": "fetch_failed"}
        )


def _is_stale(item: Item, state: ItemState, overlay: StateOverlay[ItemState]) -> bool:
    """Whether newer messages leave nothing of the item, whatever its content is."""
    return item.revision < state.whole_revision or (overlay.log.at(item.record.offset) < state.offset)


def _known(state: ItemState) -> Known:
    return {
        name: (part.digest, as_model(part.feature)) for name, part in state.parts.items() if part.digest is not None
    }


def _after(item: Item, result: Encoded | ContentError) -> Decoded:
    if isinstance(result, ContentError):
        return Rejection(item.record, result.reason, STAGE, result.detail)
    features: dict[str, AnyFeature] = {**item.features, **result.features}
    return item._replace(features=features, raw=None, digests=result.digests)
