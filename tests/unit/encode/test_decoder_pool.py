"""Decoders in processes: what a file can do to one, it does to that one alone."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from schemas import Reason
from tests import media_files
from worker.encode import decoder_pool
from worker.encode.decoder_pool import DecoderPool, Job, _DiedError, _LateError
from worker.encode.media.decoding import decode
from worker.encode.media.errors import ContentError
from worker.encode.media.forms import Audio, AudioForm, ImageForm, Images, MediaLimits, Text, TextForm

FORMS = (ImageForm(24, 32, frames=4), AudioForm(16_000, 0.25, windows=2), TextForm(100))
GOOD = Job(media_files.picture(), [FORMS[0]])
# Half a second of work and 150 MB: enough to be caught in the middle of it.
LARGE = Job(media_files.picture("PNG", np.zeros((7_000, 7_000, 3), np.uint8)), [FORMS[0]])


@pytest.fixture
def pool() -> Iterator[DecoderPool]:
    made = DecoderPool(2)
    yield made
    made.close()


def test_a_process_decodes_to_the_same_values(pool: DecoderPool) -> None:
    files = [make() for make in media_files.EVERY_KIND.values()]
    for data, (parts, _) in zip(files, pool.decode_all([Job(data, FORMS) for data in files]), strict=True):
        expected = decode(data, FORMS, MediaLimits())
        assert isinstance(parts, list)
        for part, wanted in zip(parts, expected, strict=True):
            assert type(part) is type(wanted)
            assert part is None or all(np.array_equal(a, b) for a, b in zip(part, wanted, strict=True))  # type: ignore[arg-type]
    assert pool.num_started == 2


def test_text_in_bytes_is_read_by_the_first_process_and_file(pool: DecoderPool) -> None:
    assert pool.decode(Job("\ufeffein Fußball".encode(), [TextForm(100)])) == [Text("ein Fußball")]


def test_a_refusal_comes_back_with_its_reason(pool: DecoderPool) -> None:
    (bad, _), (good, _) = pool.decode_all([Job(b"no picture", [FORMS[0]]), GOOD])
    assert isinstance(bad, ContentError)
    assert bad.reason is Reason.UNDECODABLE
    assert isinstance(good, list)


PICTURE = {"part": "Images", "shape": [1, 8, 8, 3], "data": bytes(192), "times": [0.0]}
AUDIO = {"part": "Audio", "shape": [1, 4], "data": bytes(16), "times": [0.0]}


@pytest.mark.parametrize(
    "reply",
    [
        {"parts": []},
        {"parts": [PICTURE, PICTURE]},
        {"parts": [AUDIO]},
        {"parts": [{"part": "Text", "text": "x"}]},
        {"parts": [{**PICTURE, "shape": [1, 4, 16, 3]}]},
        {"parts": [{**PICTURE, "shape": [192]}]},
        {"parts": [{**PICTURE, "shape": [0, 8, 8, 3], "data": b"", "times": []}]},
        {"parts": [{**PICTURE, "times": [float("nan")]}]},
        {"parts": [{**PICTURE, "times": []}]},
        {"parts": [{**PICTURE, "data": b"x" * 80_000}]},
        {"parts": [[[[[]]]]]},
        {"parts": [None] * 5_000},
        {"parts": 5},
        {"reason": "key_mismatch", "detail": "not a decoder's to say"},
        {"reason": "no such reason", "detail": ""},
        {"nothing": 1},
        [],
        5,
    ],
)
def test_an_answer_that_is_none_costs_the_file_and_nothing_else(reply: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a process that a file has taken over."""
    start = "from worker.encode import decoder_process as p\nnan = float('nan')\n"
    code = f"{start}p._answer = lambda *_: {reply!r}\np.main()"
    pool = DecoderPool(1)
    with monkeypatch.context() as taken_over:
        taken_over.setattr(decoder_pool, "COMMAND", (sys.executable, "-c", code))
        with pytest.raises(ContentError, match="answered with nonsense") as caught:
            pool.decode(Job(b"", [ImageForm(8, 8)]))
    assert caught.value.reason is Reason.DECODER_FAILED
    pool.close()


def test_the_largest_answers_are_within_the_bound(pool: DecoderPool) -> None:
    film = media_files.film(title="T" * 300, samples_CT=media_files.tone(2, rate=48_000))
    forms = (ImageForm(200, 300, frames=16), AudioForm(48_000, 0.1, windows=20), TextForm(300))
    pictures, sound, text = pool.decode(Job(film, forms))
    assert isinstance(pictures, Images)
    assert isinstance(sound, Audio)
    assert (len(pictures.times_s), len(sound.times_s), text) == (16, 20, Text("T" * 300))


def test_a_file_that_takes_too_long_is_given_up_and_the_next_one_is_decoded() -> None:
    pool = DecoderPool(1, timeout_s=10)
    assert pool.decode(GOOD)
    pool._timeout_s = 0.05
    with pytest.raises(ContentError, match=r"longer than 0\.05 s") as caught:
        pool.decode(LARGE)
    assert caught.value.reason is Reason.DECODER_FAILED
    pool._timeout_s = 10
    assert pool.decode(GOOD)
    pool.close()


def test_a_decoder_ends_itself_when_nobody_is_left_to_do_it() -> None:
    pool = DecoderPool(1, timeout_s=0.01)
    decoder = pool._start()
    pool._idle.get()
    large = Job(media_files.picture("PNG", np.zeros((7_000, 7_000, 3), np.uint8)), list(FORMS[:1]) * 40)
    with pytest.raises((_LateError, _DiedError)):  # whoever of the two is the first to notice
        decoder.ask(large, 0.9)  # enough to send it
    assert decoder._process.wait(30) == -signal.SIGALRM
    decoder.end()
    pool.close()


def test_a_frozen_decoder_is_replaced(pool: DecoderPool) -> None:
    pool.decode(GOOD)
    decoder = pool._idle.get()
    assert decoder is not None
    os.kill(decoder._process.pid, signal.SIGSTOP)
    pool._idle.put(decoder)
    pool._timeout_s = 0.2
    with pytest.raises(ContentError, match="longer than"):
        pool.decode(LARGE)
    pool._timeout_s = 20
    assert pool.decode(GOOD)


def test_a_decoder_that_crashes_costs_the_file_it_was_at(pool: DecoderPool) -> None:
    pool.decode(GOOD)
    decoder = pool._idle.get()
    assert decoder is not None
    pool._idle.put(decoder)
    outcome: list[tuple[object, float]] = []
    thread = threading.Thread(target=lambda: outcome.extend(pool.decode_all([LARGE])))
    thread.start()
    while decoder.num_files < 2:
        thread.join(0.001)
    os.kill(decoder._process.pid, signal.SIGSEGV)
    thread.join(30)
    ((error, _),) = outcome
    assert isinstance(error, ContentError)
    assert error.reason is Reason.DECODER_FAILED
    assert "crashed" in error.detail
    assert pool.decode(GOOD)


def test_a_decoder_that_died_in_between_costs_nothing(pool: DecoderPool) -> None:
    pool.decode(GOOD)
    decoder = pool._idle.get()
    assert decoder is not None
    decoder._process.kill()
    decoder._process.wait()
    pool._idle.put(decoder)
    assert pool.decode(GOOD)


def test_memory_is_bounded() -> None:
    pool = DecoderPool(1, memory_bytes=100 * 2**20)
    with pytest.raises(ContentError, match="more memory") as caught:
        pool.decode(LARGE)
    assert caught.value.reason is Reason.DECODER_FAILED
    assert pool.decode(GOOD)
    assert pool.num_started == 1
    pool.close()


def test_all_processes_can_be_started_before_the_first_file() -> None:
    pool = DecoderPool(2)
    pool.warm_up()
    assert pool.num_started == 2
    assert pool.decode(GOOD)
    assert pool.num_started == 2
    pool.close()


def test_closing_does_not_wait_for_what_is_under_way(pool: DecoderPool) -> None:
    pool.warm_up()
    outcome: list[tuple[object, float]] = []
    slow = Job(LARGE.data, list(LARGE.forms) * 40)
    thread = threading.Thread(target=lambda: outcome.extend(pool.decode_all([slow])))
    thread.start()
    while all(decoder.num_files == 0 for decoder in pool._running):
        thread.join(0.001)
    pool.close()
    thread.join(10)
    ((error, _),) = outcome
    assert isinstance(error, ContentError)
    assert pool._running == set()


def test_no_process_outlives_the_pool() -> None:
    pool = DecoderPool(1)
    pool.decode(GOOD)
    decoder = pool._idle.get()
    assert decoder is not None
    pool._idle.put(decoder)
    pool.close()
    assert decoder._process.poll() is not None
