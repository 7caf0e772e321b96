"""`align-worker encode`: items with content in, the same items with features out.

The code that makes features here is the code that makes them in a running worker, so a space trained on these features
meets the same ones when it serves.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from pydantic import ValidationError

from schemas import DEFAULT_LIMITS, Content, NewItem, Reason
from worker.data.files import read_items, unreadable, write_items
from worker.data.progress import counted
from worker.encode.content import ContentEncoder, Encoded, Report
from worker.encode.encoder import UnavailableError
from worker.encode.media.errors import ContentError, too_large
from worker.errors import DataError, UnreachableError
from worker.printable import printable

BATCH_ITEMS = 256
MAX_BYTES = 64 * 2**20
"""Of a file, where nothing else is said."""
BATCH_BYTES = 64 * 2**20
SHOWN_REFUSALS = 20
PATIENCE_S, MIN_WAIT_S = 300.0, 0.05

SUFFIXES = {
    "text": (".txt",),
    "image": (".jpg", ".jpeg", ".png", ".webp", ".gif", ".avif"),
    "audio": (".wav", ".flac", ".ogg", ".mp3"),
    "video": (".mp4", ".mov", ".webm", ".mkv"),
}
MODALITY_OF = {suffix: modality for modality, suffixes in SUFFIXES.items() for suffix in suffixes}


@dataclass
class Summary:
    """Counts of items by outcome."""

    items: int = 0
    encoded: int = 0
    """Items that have got features."""
    unchanged: int = 0
    """Items without content that an encoder takes."""
    refused: Counter[str] = field(default_factory=Counter)
    features: Counter[str] = field(default_factory=Counter)
    cut: Counter[str] = field(default_factory=Counter)
    """Contents longer than the encoder takes, by modality."""
    encoders: dict[str, str] = field(default_factory=dict)
    dims: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def text(self) -> str:
        """For a person to read."""
        rate = self.items / self.seconds if self.seconds else 0.0
        lines = [
            f"{self.items} items in {self.seconds:.1f} s ({rate:.0f}/s): {self.encoded} encoded, "
            f"{self.unchanged} without content, {sum(self.refused.values())} refused"
        ]
        lines += [
            f"  {name}: {self.features[name]} features of {encoder}, {self.dims[name]} dims"
            + (f", {self.cut[name]} contents cut" if self.cut[name] else "")
            for name, encoder in self.encoders.items()
        ]
        lines += [f"  refused, {reason}: {count}" for reason, count in self.refused.most_common()]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Unread:
    """An item whose files cannot be its content."""

    item_id: str
    reason: Reason
    detail: str


def encode_items(
    source: Path,
    target: Path,
    encoder: ContentEncoder,
    *,
    keep_content: bool = False,
    max_bytes: int = MAX_BYTES,
    err: TextIO = sys.stderr,
) -> Summary:
    """Encode an item file, or a directory of media files of at most `max_bytes` each, into an item file.

    Refused items are left out; the first of them are told on `err`. Raises `DataError` for a source that is neither.
    """
    summary = Summary(
        encoders={name: route.encoder.name for name, route in encoder.routes.items()},
        dims={name: route.encoder.dim for name, route in encoder.routes.items()},
    )
    wanted = None if keep_content else {name for route in encoder.routes.values() for name in route.contents}
    found = read_directory(source, wanted, max_bytes) if source.is_dir() else read_items(source)
    items = counted(found, "items")
    started = time.monotonic()
    write_items(target, _encoded(_read_items(items, summary, err), encoder, summary, keep_content, err))
    summary.seconds = time.monotonic() - started
    return summary


def _read_items(items: Iterable[NewItem | Unread], summary: Summary, err: TextIO) -> Iterator[NewItem]:
    for item in items:
        if isinstance(item, Unread):
            _tell(item.item_id, item.reason, item.detail, summary, err)
            summary.items += 1
        else:
            yield item


def _encoded(
    items: Iterable[NewItem], encoder: ContentEncoder, summary: Summary, keep_content: bool, err: TextIO
) -> Iterator[NewItem]:
    for batch in _batches(items):
        wanted = [encoder.modalities(item.content, item.features) for item in batch]
        todo = [index for index, modalities in enumerate(wanted) if modalities]
        results, report = _patiently(encoder, [batch[index] for index in todo], [wanted[index] for index in todo], err)
        found = dict(zip(todo, results, strict=True))
        for index, item in enumerate(batch):
            result = found.get(index)
            if isinstance(result, ContentError):
                _tell(item.item_id, result.reason, result.detail, summary, err)
                continue
            summary.encoded += result is not None
            summary.unchanged += result is None
            features = {**item.features, **(result.features if result else {})}
            yield item.model_copy(update={"features": features, "content": item.content if keep_content else {}})
        _count(report, summary)
        summary.items += len(batch)


def _patiently(
    encoder: ContentEncoder, items: Sequence[NewItem], modalities: Sequence[Collection[str]], err: TextIO
) -> tuple[list[Encoded | ContentError], Report]:
    """Encode the items' contents, waiting for servers that do not answer. Raises `UnreachableError` when
    that takes too long."""
    deadline = time.monotonic() + PATIENCE_S
    is_told = False
    while True:
        try:
            return encoder.encode([item.content for item in items], modalities)
        except UnavailableError as error:
            if time.monotonic() > deadline:
                raise UnreachableError(f"encode.encoders: {error.modality}: {error.detail}") from None
            if not is_told:
                print(printable(f"waiting: {error.modality}: {error.detail}"), file=err)
            is_told = True
            time.sleep(max(MIN_WAIT_S, error.retry_at - time.monotonic()))


def _batches(items: Iterable[NewItem]) -> Iterator[list[NewItem]]:
    batch: list[NewItem] = []
    num_bytes = 0
    for item in items:
        batch.append(item)
        num_bytes += sum(len(content.data or b"") for content in item.content.values())
        if len(batch) >= BATCH_ITEMS or num_bytes >= BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch


def _tell(item_id: str, reason: Reason, detail: str, summary: Summary, err: TextIO) -> None:
    if sum(summary.refused.values()) < SHOWN_REFUSALS:
        print(printable(f"{item_id}: {reason.value}: {detail}"), file=err)
    summary.refused[reason.value] += 1


def _count(report: Report, summary: Summary) -> None:
    for modality, figures in report.by_modality.items():
        summary.features[modality] += figures.encoded + figures.reused
        summary.cut[modality] += figures.cut


def read_directory(
    root: Path, wanted: Collection[str] | None = None, max_bytes: int = MAX_BYTES
) -> Iterator[NewItem | Unread]:
    """The media files below a directory as items, in the order of their names. Files of modalities that are not
    `wanted` are not read.

    Files that differ in their suffix only are one item, whose id is their path without it: `sku-1.jpg` and
    `sku-1.txt` are image and text of `sku-1`. The revision is 0 and the time that of the youngest file.
    """
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in MODALITY_OF and path.is_file())
    if not files:
        raise DataError(f"{root}: holds no file with one of {', '.join(sorted(MODALITY_OF))}")
    together: dict[str, list[Path]] = {}
    for path in files:
        together.setdefault(str(path.relative_to(root).with_suffix("")), []).append(path)
    for item_id, paths in together.items():
        named = [(MODALITY_OF[path.suffix.lower()], path) for path in paths]
        modalities = [modality for modality, _ in named]
        if twice := {modality for modality in modalities if modalities.count(modality) > 1}:
            raise DataError(f"{root}: {item_id} has more than one file for {', '.join(sorted(twice))}")
        yield _item(
            item_id,
            [(modality, path) for modality, path in named if wanted is None or modality in wanted],
            paths,
            max_bytes,
        )


def _item(item_id: str, named: Sequence[tuple[str, Path]], paths: Sequence[Path], max_bytes: int) -> NewItem | Unread:
    try:
        youngest_ms = max(path.stat().st_mtime_ns for path in paths) // 1_000_000
        return NewItem(
            item_id=item_id,
            revision=0,
            event_time_ms=max(0, youngest_ms),
            content={modality: _read(path, modality, max_bytes) for modality, path in named},
        )
    except ContentError as error:
        return Unread(item_id, error.reason, error.detail)
    except OSError as error:  # gone, or out of reach, since the directory was listed
        return Unread(item_id, Reason.UNDECODABLE, f"cannot be read: {error.strerror or error}")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return Unread(item_id, Reason.INVALID_FIELD, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")


def media_content(path: Path, max_bytes: int = MAX_BYTES) -> tuple[str, Content] | None:
    """The modality and content of a media file, told from its suffix; None if it is no media file.

    Raises `DataError` for one that cannot be read.
    """
    modality = MODALITY_OF.get(path.suffix.lower())
    try:
        return None if modality is None else (modality, _read(path, modality, max_bytes))
    except ContentError as error:
        raise DataError(f"{path}: {error.detail}") from None
    except OSError as error:
        raise unreadable(path, error) from None


def _read(path: Path, modality: str, max_bytes: int) -> Content:
    """Raises `ContentError` for what is too large to be read, or no text."""
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise too_large(f"{path.name} has more bytes than the limit of {max_bytes} (encode.max_bytes)")
    if modality != "text":
        return Content(data=data)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{data[error.start]:02x}"
        raise ContentError(Reason.UNDECODABLE, f"{path.name} is no text in UTF-8: it holds the {byte}") from None
    if len(text) > DEFAULT_LIMITS.text_chars:
        raise too_large(f"{path.name} has {len(text)} characters, the limit is {DEFAULT_LIMITS.text_chars}")
    return Content(text=text)
