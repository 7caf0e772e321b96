"""Which item comes next, on a public set: `python -m tests.bench.next_item ../shared/data/amazon-industrial`.

The folder has `items.csv` (item_id, title, brand, description), and `valid.csv` and `test.csv` with a question a row
(user_id, history, target). A space in closed form is chosen and fitted by the rows of valid.csv alone (`align-worker
train --closed-form --rank-seen`), for each seed, and asked the rows of test.csv: all items ranked by one dot product of
the user's vector and the item's, ties against the space, nothing filtered.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from schemas import Feature, NewItem
from worker.__main__ import main as align_worker
from worker.data.files import write_items
from worker.encode.builtin.text import TextNgrams
from worker.encode.encoder import Piece

MEASURES = ("recall@10", "ndcg@10")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--fit", default="valid.csv", help="rows to choose and to fit by (default: %(default)s)")
    parser.add_argument("--ask", default="test.csv", help="rows to ask (default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        _run(arguments.folder, arguments.folder / arguments.fit, arguments.folder / arguments.ask, arguments.seeds,
             Path(work))  # fmt: skip


def _run(folder: Path, fit: Path, ask: Path, seeds: int, work: Path) -> None:
    encoding_s = _encode(folder / "items.csv", work / "items.msgpack")
    for rows, name in ((fit, "fit"), (ask, "ask")):
        _quietly("import", "questions", "--rows", rows, "--event-type", "buy", "--out", work / name)
    data = ["--items", work / "items.msgpack", "--events", work / "fit" / "events.msgpack", "--cold-share", "0",
            "--threads", "1", "--device", "cpu"]  # fmt: skip
    found = []
    for seed in range(seeds):
        space, parts = work / f"space-{seed}", work / f"parts-{seed}.msgpack"
        started = time.process_time()
        _quietly("train", space, *data, "--event", "buy=1", "--closed-form", "--rank-seen", "--last", "10",
                 "--seed", seed, "--items-out", parts)  # fmt: skip
        cpu_s = encoding_s + time.process_time() - started
        report = json.loads(
            _quietly("evaluate", space, *data, "--items", parts, "--baseline", "none", "--questions",
                     work / "ask" / "questions.jsonl", "--rank-seen", "--json")
        )  # fmt: skip
        figures = report["models"][str(space)]["warm"]
        found.append([figures[measure]["mean"] for measure in MEASURES])
        errors = [figures[measure]["standard_error"] for measure in MEASURES]
        shown = ", ".join(
            f"{name} {value:.4f} ± {error:.4f}"
            for name, value, error in zip(("HR@10", "NDCG@10"), found[-1], errors, strict=True)
        )
        print(
            f"seed {seed}: {shown}; {cpu_s:.0f} s of CPU",
            flush=True,
        )
    means = np.mean(found, axis=0)
    print(f"mean over {seeds} seeds: HR@10 {means[0]:.4f}, NDCG@10 {means[1]:.4f}")


def _encode(table: Path, out: Path) -> float:
    """Items with the built-in encoder's vector of their title, brand and description; the seconds of CPU it took."""
    started, encoder = time.process_time(), TextNgrams()
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    texts = [f"{row['title']}. {row['brand']}. {row['description']}" for row in rows]
    vectors_ID = encoder.encode([Piece(text[:8_192], len(text), False) for text in texts])
    write_items(out, (
        NewItem(item_id=row["item_id"], revision=1, event_time_ms=0,
                features={"text": Feature.from_numpy(vector_D, "f2", encoder=encoder.name)})
        for row, vector_D in zip(rows, vectors_ID, strict=True)
    ))  # fmt: skip
    return time.process_time() - started


def _quietly(*arguments: object) -> str:
    """What a command prints. Raises `SystemExit`, with what it said, where it fails."""
    output, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(said):
        code = align_worker([str(each) for each in arguments])
    if code:
        raise SystemExit(f"align-worker {arguments[0]} ended with {code}: {said.getvalue()}")
    return output.getvalue()


if __name__ == "__main__":
    main()
