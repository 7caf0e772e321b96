"""What is compressed comes out as it went in, in pieces; what is broken is said to be."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import random
import subprocess
import sys
from pathlib import Path

import pytest
import snappy

from tests.unit.kafka.batch_bytes import CODECS, compressed
from worker.kafka import decompression
from worker.kafka.decompression import BLOCK_BYTES, PIECE_BYTES, BrokenDataError, pieces

ALL = [name for name in CODECS if name != "none"]
NOISE = random.Random(7).randbytes(300_000)
MIXED = (NOISE[:100_000] + b"the same words over and over " * 20_000) * 2


def whole(codec: str, data: bytes) -> bytes:
    return b"".join(pieces(CODECS[codec], data))


@pytest.mark.parametrize("codec", ALL)
@pytest.mark.parametrize("data", [b"", b"x", NOISE, MIXED], ids=["nothing", "a byte", "noise", "mixed"])
def test_what_went_in_comes_out(codec: str, data: bytes) -> None:
    assert whole(codec, compressed(data, codec)) == data


@pytest.mark.parametrize("codec", ALL)
def test_no_piece_is_larger_than_a_piece_may_be(codec: str) -> None:
    found = [len(piece) for piece in pieces(CODECS[codec], compressed(bytes(5 * PIECE_BYTES), codec))]
    assert sum(found) == 5 * PIECE_BYTES
    assert min(found) > 0
    assert max(found) <= PIECE_BYTES


@pytest.mark.parametrize("codec", ALL)
def test_data_that_is_cut_short_is_refused_or_gives_a_part(codec: str) -> None:
    """zstd does not say that a frame goes on: the records that are missing do."""
    data = compressed(MIXED, codec)
    for end in (0, 1, 5, len(data) // 2, len(data) - 1):
        try:
            found = whole(codec, data[:end])
        except BrokenDataError:
            continue
        assert len(found) < len(MIXED)
        assert MIXED.startswith(found)


@pytest.mark.parametrize("codec", ALL)
def test_changed_data_is_refused_or_read_and_nothing_else(codec: str) -> None:
    rng, data = random.Random(codec), compressed(MIXED[:50_000], codec)
    for _ in range(150):
        changed = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(min(len(changed), rng.choice((20, len(changed)))))] = rng.randrange(256)
        with contextlib.suppress(BrokenDataError):
            for number, piece in enumerate(pieces(CODECS[codec], bytes(changed))):
                assert len(piece) <= PIECE_BYTES
                if number > 200:
                    break


def test_members_of_gzip_follow_one_another_and_padding_is_passed_over() -> None:
    data = gzip.compress(b"one, ") + gzip.compress(b"two") + bytes(8)
    assert whole("gzip", data) == b"one, two"


def test_a_large_block_of_snappy_is_unpacked_in_pieces() -> None:
    data = MIXED[:2_000_000] + bytes(BLOCK_BYTES)
    assert whole("snappy", snappy.compress(data)) == data


@pytest.mark.parametrize("start", range(0, 40, 7))
def test_the_slow_way_through_snappy_gives_what_the_library_gives(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompression, "BLOCK_BYTES", 0)
    data = MIXED[start : start + 200_000]
    assert whole("snappy", snappy.compress(data)) == data


def test_a_block_of_snappy_that_promises_more_than_it_has_is_refused_without_the_room_for_it() -> None:
    block = b"\xff\xff\xff\xff\x0f" + snappy.compress(b"little")[1:]
    with pytest.raises(BrokenDataError):
        whole("snappy", block)


BOMB = """
import resource, sys
from tests.unit.kafka.batch_bytes import CODECS, compressed
from worker.kafka.decompression import pieces
data = open(sys.argv[2], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
total = sum(map(len, pieces(CODECS[sys.argv[1]], data)))
print(total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("codec", ["gzip", "lz4", "zstd"])
def test_memory_is_bounded_whatever_is_unpacked(codec: str, tmp_path: Path) -> None:
    size = 100 * 2**20
    (tmp_path / "bomb").write_bytes(compressed(bytes(size), codec))
    command = [sys.executable, "-c", BOMB, codec, str(tmp_path / "bomb")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    total, grown_kb = map(int, done.stdout.split())
    assert total == size
    assert grown_kb < 48 * 1024


def test_pieces_of_a_bomb_come_one_by_one() -> None:
    data = compressed(bytes(100 * 2**20), "zstd")
    assert len(data) < 2**16
    first = list(itertools.islice(pieces(CODECS["zstd"], data), 3))
    assert sum(map(len, first)) <= 3 * PIECE_BYTES
