"""Bodies that are packed: whole, cut short, and far larger than they look."""

from __future__ import annotations

import gzip
import zlib

import pytest

from schemas import Reason
from worker.encode.clock import Clock, LateError
from worker.encode.media.errors import ContentError
from worker.encode.unpacking import CodingError, CutShortError, unpacked

BODY = bytes(range(256)) * 4_000
LIMIT = 2 * len(BODY)


def bare(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def plain(body: bytes, codings: str, max_bytes: int = LIMIT) -> bytes:
    return unpacked(body, codings, max_bytes, lambda: None)


@pytest.mark.parametrize(
    ("codings", "body"),
    [
        ("", BODY),
        ("identity", BODY),
        ("aws-chunked", BODY),
        ("gzip", gzip.compress(BODY)),
        ("GZIP", gzip.compress(BODY)),
        ("x-gzip", gzip.compress(BODY)),
        ("aws-chunked, gzip", gzip.compress(BODY)),
        ("gzip", gzip.compress(BODY, 0)),
        ("gzip", gzip.compress(BODY[:1_000]) + gzip.compress(b"") + gzip.compress(BODY[1_000:])),
        ("gzip", gzip.compress(BODY) + bytes(512)),
        ("gzip, gzip", gzip.compress(gzip.compress(BODY))),
        ("deflate", zlib.compress(BODY)),
        ("deflate", bare(BODY)),
        ("deflate, gzip", gzip.compress(zlib.compress(BODY))),
    ],
)
def test_a_packed_body_is_unpacked(codings: str, body: bytes) -> None:
    assert plain(body, codings) == BODY


def test_sizes_around_a_step_are_whole() -> None:
    for size in (0, 1, 65_535, 65_536, 262_143, 262_144, 262_145, 524_288):
        assert plain(gzip.compress(bytes(size)), "gzip") == bytes(size)


@pytest.mark.parametrize("codings", ["gzip", "deflate"])
def test_a_packed_body_that_is_cut_short_is_not_taken_for_whole(codings: str) -> None:
    whole = gzip.compress(BODY) if codings == "gzip" else zlib.compress(BODY)
    for length in (0, 1, 5, len(whole) // 2, len(whole) - 1):
        with pytest.raises(CutShortError):
            plain(whole[:length], codings)


@pytest.mark.parametrize(
    ("codings", "body"),
    [
        ("gzip", BODY),
        ("gzip", gzip.compress(BODY)[:-8] + bytes(8)),  # the wrong sum
        ("gzip", gzip.compress(BODY) + b"noise"),
        ("gzip", gzip.compress(BODY) + b"\0\0noise"),
        ("deflate", zlib.compress(BODY) + b"noise"),
        ("br", BODY),
        ("gzip, br", BODY),
        ("gzip, gzip, gzip, gzip", BODY),
    ],
)
def test_what_is_not_packed_as_it_says_is_refused(codings: str, body: bytes) -> None:
    with pytest.raises(CodingError):
        plain(body, codings)


@pytest.mark.parametrize("codings", ["gzip", "deflate", "gzip, gzip"])
def test_a_bomb_is_stopped_at_the_limit(codings: str) -> None:
    bomb = bytes(10**8)
    for name in codings.split(", "):
        bomb = gzip.compress(bomb, 1) if name == "gzip" else zlib.compress(bomb, 1)
    with pytest.raises(ContentError) as caught:
        plain(bomb, codings, 10**6)
    assert caught.value.reason is Reason.TOO_LARGE


def test_unpacking_is_under_the_clock() -> None:
    times = iter(range(10**9))
    clock = Clock(100.0, now=lambda: float(next(times)))
    with pytest.raises(LateError, match="longer than 100 s"):
        unpacked(gzip.compress(b"") * 10_000, "gzip", LIMIT, clock.left_s)
