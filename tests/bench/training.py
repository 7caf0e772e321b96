"""What a trained space is worth on a real catalogue, beside baselines.

    python -m tests.bench.training                                   # three seeds of the recipe, all baselines
    python -m tests.bench.training --no-baselines -- --score cosine  # what follows -- goes to `align-worker train`

Imports the ratings, features and lists of withheld items, trains one space per seed, and puts them to the questions of
`align-worker evaluate`: its table is the output. Every choice is made on validation, here as in `worker.train`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.film_parts import DATA
from tests.bench.host import host_line


def worker(*arguments: object) -> float:
    """Run `align-worker` and return how many seconds that took. Raises `CalledProcessError`."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "worker", *map(str, arguments)], check=True)
    return time.monotonic() - started


def import_ratings(source: Path, out: Path) -> None:
    """Ratings, titles, features and lists of withheld items to the files that training and evaluation read."""
    files = ("--ratings", "ratings.csv"), ("--items", "items.csv"), ("--features", "features.npz")
    worker("import", "movielens", *(part for flag, name in files for part in (flag, source / name)), "--out", out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=DATA, help="directory with ratings.csv, items.csv and features.npz"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="keep the imported files, the spaces and the plots there")
    parser.add_argument("--no-baselines", action="store_true")
    parser.add_argument("train", nargs="*", help="flags for `align-worker train`, after --")
    arguments = parser.parse_args()
    print(host_line(), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        run(arguments, arguments.out or Path(temporary))


def run(arguments: argparse.Namespace, out: Path) -> None:
    data = out / "data"
    import_ratings(arguments.data, data)
    files = ["--items", data / "items.msgpack", "--events", data / "events.msgpack"]
    withheld = ["--cold-val", data / "cold_val.txt", "--cold-test", data / "cold_test.txt"]
    parts = out / "parts.msgpack"
    spaces = [out / f"space-{seed}" for seed in range(arguments.seeds)]
    seconds = [
        worker("train", space, *files, *withheld, "--event", "like=1", "--seed", seed, "--items-out", parts,
               *arguments.train)
        for seed, space in enumerate(spaces)
    ]  # fmt: skip
    print(f"training, with reading the files: {', '.join(f'{each:.0f} s' for each in seconds)}")
    plain = ["--baseline", "none"] if arguments.no_baselines else []
    worker("evaluate", *spaces, *files, "--items", parts, *withheld, "--plots", out / "plots", *plain)


if __name__ == "__main__":
    main()
