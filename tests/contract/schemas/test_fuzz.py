"""Whatever the bytes, decode gives a valid message or a SchemaError, and soon.

`ALIGN_FUZZ_CASES=200000 python -m pytest tests/contract/schemas/test_fuzz.py --timeout 900` is the long campaign.
Case N is the same in every run: `ALIGN_FUZZ_FIRST=N ALIGN_FUZZ_CASES=1` runs it alone.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter

import pytest

from schemas import MESSAGES, DeadLetter, Message, NewItem, Reason, SchemaError, UserEvent, decode, encode
from tests.contract.schemas.golden import EXAMPLES
from tests.contract.schemas.mutations import broken

CASES = int(os.environ.get("ALIGN_FUZZ_CASES", "50000"))
FIRST = int(os.environ.get("ALIGN_FUZZ_FIRST", "0"))
ENOUGH_TO_SEE_EVERYTHING = 5_000
SLOWEST_S = 0.5
REASONS = {
    Reason.NOT_MSGPACK, Reason.TOO_LARGE, Reason.UNSUPPORTED_VERSION, Reason.INVALID_FIELD, Reason.NON_FINITE,
}  # fmt: skip

SEEDS: list[tuple[type[Message], bytes]] = [
    *((MESSAGES[name], encode(example)) for name, example in EXAMPLES.items()),
    (NewItem, encode(NewItem(item_id="i", revision=0, event_time_ms=0))),
    (UserEvent, encode(UserEvent(event_id="e", user_id="u", item_id="i", event_type="t", event_time_ms=0))),
]
ALL_BYTES = [data for _, data in SEEDS]


def outcome(message: type[Message], data: bytes) -> str:
    """`accepted` or the reason of the refusal. Fails on anything else."""
    try:
        decoded = decode(message, data)
    except SchemaError as error:
        text = str(error)
        assert len(text) < 400, text
        assert text.isprintable(), ascii(text)
        return error.reason
    if not (isinstance(decoded, DeadLetter) and not isinstance(decoded.reason, Reason)):
        assert decode(message, encode(decoded)) == decoded
    return "accepted"


def timed(message: type[Message], data: bytes) -> tuple[str, float]:
    """The outcome and the CPU seconds of this thread. What was slow is timed again: it may have been the search for
    garbage among all that earlier tests have left."""
    started = time.thread_time()
    result = outcome(message, data)
    seconds = time.thread_time() - started
    if seconds > SLOWEST_S:
        started = time.thread_time()
        outcome(message, data)
        seconds = min(seconds, time.thread_time() - started)
    return result, seconds


def test_decode_gives_a_message_or_a_schema_error() -> None:
    outcomes: Counter[str] = Counter()
    slowest = (0.0, -1)
    for case in range(FIRST, FIRST + CASES):
        rng = random.Random(case)
        message, seed = rng.choice(SEEDS)
        data = broken(rng, [seed] if rng.random() < 0.9 else ALL_BYTES)
        try:
            result, seconds = timed(message, data)
        except Exception as error:
            pytest.fail(f"case {case}: {type(error).__name__}: {error}; {message.__name__} from {data[:2000]!r}")
        outcomes[result] += 1
        slowest = max(slowest, (seconds, case))
    print(f"{CASES} cases: {dict(outcomes)}, slowest {slowest[0] * 1e3:.1f} ms (case {slowest[1]})")
    assert slowest[0] < SLOWEST_S, f"case {slowest[1]} took {slowest[0]:.2f} s"
    if CASES >= ENOUGH_TO_SEE_EVERYTHING:
        assert set(outcomes) == REASONS | {"accepted"}
        assert min(outcomes.values()) >= CASES // 2_000, outcomes
