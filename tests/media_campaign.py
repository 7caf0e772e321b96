"""Broken media files by the thousand: does any of them crash, hang or bloat the decoders, or get lost?

    python -m tests.media_campaign --files 20000 --seed 1

Files of every type that is read are damaged (bits, cuts, foreign headers, lost, repeated and blank parts, extreme
numbers) and decoded for every kind of encoder at once, in a pool of decoders. Exits non-zero unless every file came
back decoded or refused with a reason, no decoder crashed or ran out of time, and memory stayed within its bound.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests import media_files
from worker.encode.decoder_pool import DecoderPool, Job
from worker.encode.media.errors import ContentError
from worker.encode.media.forms import Audio, AudioForm, Form, ImageForm, Images, Part, TextForm

FORMS: tuple[Form, ...] = (ImageForm(32, 32, frames=4), AudioForm(16_000, 1.0, windows=2), TextForm(1_000))
MEMORY_BYTES = 512 * 2**20
TIMEOUT_S = 20.0
CHUNK = 256
MAX_SHOWN = 10


def flip_bits(data: bytearray, dice: random.Random) -> None:
    for _ in range(2 ** dice.randrange(9)):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)


def flip_bits_of_the_head(data: bytearray, dice: random.Random) -> None:
    for _ in range(2 ** dice.randrange(5)):
        data[dice.randrange(min(256, len(data)))] ^= 1 << dice.randrange(8)


def cut(data: bytearray, dice: random.Random) -> None:
    del data[dice.randrange(len(data)) :]


def take_a_foreign_head(data: bytearray, dice: random.Random) -> None:
    foreign = dice.choice(_originals())
    size = 2 ** dice.randrange(2, 9)
    data[:size] = foreign[:size]


def lose_a_part(data: bytearray, dice: random.Random) -> None:
    start = dice.randrange(len(data))
    del data[start : start + 2 ** dice.randrange(12)]


def repeat_a_part(data: bytearray, dice: random.Random) -> None:
    start, size = dice.randrange(len(data)), 2 ** dice.randrange(12)
    data[start:start] = bytes(data[start : start + size]) * dice.randrange(1, 5)


def blank_a_part(data: bytearray, dice: random.Random) -> None:
    start, size = dice.randrange(len(data)), 2 ** dice.randrange(10)
    data[start : start + size] = bytes([dice.choice([0, 255])]) * min(size, len(data) - start)


def put_an_extreme_number(data: bytearray, dice: random.Random) -> None:
    for _ in range(dice.randrange(1, 4)):
        number = dice.choice([0, 1, 2**7, 2**15 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1])
        size = dice.choice([2, 4])
        start = dice.randrange(min(4_096, len(data)))
        order = "little" if dice.random() < 0.5 else "big"
        data[start : start + size] = (number % 2 ** (8 * size)).to_bytes(size, order)


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip_bits,
    flip_bits_of_the_head,
    cut,
    take_a_foreign_head,
    lose_a_part,
    repeat_a_part,
    blank_a_part,
    put_an_extreme_number,
)


@dataclass
class Outcome:
    """What became of the files."""

    num_files: int = 0
    decoded: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    peak_bytes: int = 0
    num_started: int = 0
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        accounted = self.decoded + sum(self.refused.values())
        return not self.violations and accounted == self.num_files and self.peak_bytes <= MEMORY_BYTES

    def text(self) -> str:
        refused = ", ".join(f"{count} {reason}" for reason, count in self.refused.most_common())
        return (
            f"{self.num_files} files in {self.seconds:.0f} s: {self.decoded} decoded, refused: {refused or 'none'}; "
            f"{self.num_started} decoder processes, the largest {self.peak_bytes / 2**20:.0f} MiB; "
            f"{len(self.violations)} violations"
        )


def run(num_files: int, seed: int, num_processes: int = 2) -> Outcome:
    """Damage and decode so many files."""
    dice = random.Random(seed)
    pool = DecoderPool(num_processes, timeout_s=TIMEOUT_S, memory_bytes=MEMORY_BYTES)
    outcome = Outcome()
    started = time.monotonic()
    while outcome.num_files < num_files:
        files = [_damaged(dice) for _ in range(min(CHUNK, num_files - outcome.num_files))]
        results = [result for result, _ in pool.decode_all([Job(data, FORMS) for data in files])]
        for number, result in enumerate(results, outcome.num_files):
            _judge(f"file {number} of seed {seed}", result, outcome)
        outcome.num_files += len(files)
        outcome.peak_bytes = max([outcome.peak_bytes, *_peaks(pool)])
    outcome.num_started = pool.num_started
    outcome.seconds = time.monotonic() - started
    if outcome.num_started > num_processes + num_files // 10_000:
        outcome.violations.append(f"{outcome.num_started} processes were started for {num_processes} decoders")
    pool.close()
    return outcome


def _originals(made: list[bytes] = []) -> list[bytes]:  # noqa: B006  # made once
    if not made:
        made.extend(make() for make in media_files.EVERY_KIND.values())
    return made


def _damaged(dice: random.Random) -> bytes:
    data = bytearray(dice.choice(_originals()))
    for _ in range(dice.choice([1, 1, 1, 2, 3])):
        if data:
            dice.choice(MUTATIONS)(data, dice)
    return bytes(data)


def _judge(name: str, result: Sequence[Part | None] | ContentError, outcome: Outcome) -> None:
    if isinstance(result, ContentError):
        outcome.refused[result.reason.value] += 1
        if "crashed" in result.detail or "longer than" in result.detail:
            outcome.violations.append(f"{name}: {result.detail}")
        return
    outcome.decoded += 1
    for form, part in zip(FORMS, result, strict=True):
        if isinstance(part, Images) and part.pixels_NHW3.shape[1:] != (32, 32, 3):
            outcome.violations.append(f"{name}: pixels of shape {part.pixels_NHW3.shape} for {form}")
        if isinstance(part, Audio) and not np.isfinite(part.samples_NT).all():
            outcome.violations.append(f"{name}: samples that are not finite")


def _peaks(pool: DecoderPool) -> list[int]:
    """Most memory that each decoder has ever had resident."""
    idle = [pool._idle.get() for _ in range(pool._idle.qsize())]
    for decoder in idle:
        pool._idle.put(decoder)
    status = [Path(f"/proc/{decoder._process.pid}/status").read_text() for decoder in idle if decoder is not None]
    return [int(text.split("VmHWM:")[1].split()[0]) * 1_024 for text in status]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    outcome = run(arguments.files, arguments.seed, arguments.processes)
    print(outcome.text())
    for violation in outcome.violations[:MAX_SHOWN]:
        print(violation)
    return 0 if outcome.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
