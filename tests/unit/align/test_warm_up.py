"""The dtype is chosen by what was measured, and the report says by what."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.unit.align.builders import make_items, make_space, spec
from worker.align import warm_up
from worker.align.collated import Collated, Layout
from worker.align.runtime import AlignRuntime
from worker.align.space import write_space
from worker.align.warm_up import MIN_COSINE, Candidate, chosen, decide, try_dtypes
from worker.align.weights import initial_weights
from worker.errors import ConfigError, SpaceError

EXACT = Candidate("float32", 40.0, 1.0)


def verdicts(requested: str, *tried: Candidate) -> dict[str, str]:
    return {candidate.dtype: candidate.verdict for candidate in decide(requested, tried)}


@pytest.mark.parametrize("us_per_item", [0.1, 12.0, 37.0, 40.0, 300.0, None])
@pytest.mark.parametrize("exact_us", [0.1, 40.0, 4_000.0])
def test_what_is_measured_does_not_decide(us_per_item: float | None, exact_us: float) -> None:
    """Two processes on one machine measure different times, and fill one topic."""
    tried = (Candidate("float32", exact_us, 1.0), Candidate("bfloat16", us_per_item, us_per_item and 0.9999))
    assert chosen(decide("auto", tried)).dtype == "float32"


def test_what_others_would_cost_is_told() -> None:
    tried = (EXACT, Candidate("bfloat16", 12.0, 0.9999), Candidate("float16", 14.0, MIN_COSINE - 1e-4))
    assert verdicts("auto", *tried) == {"float32": "chosen", "bfloat16": "for comparison", "float16": "inaccurate"}


def test_a_hopeless_dtype_is_reported() -> None:
    assert verdicts("auto", EXACT, Candidate("bfloat16", None, None)) == {
        "float32": "chosen",
        "bfloat16": "much slower",
    }


def test_a_dtype_asked_for_is_taken_and_its_inaccuracy_said() -> None:
    tried = (EXACT, Candidate("bfloat16", 400.0, 0.9999))
    assert verdicts("bfloat16", *tried) == {"float32": "for comparison", "bfloat16": "chosen"}
    assert verdicts("bfloat16", EXACT, Candidate("bfloat16", 400.0, 0.9))["bfloat16"] == "chosen, inaccurate"


def test_a_dtype_that_overflows_is_refused_if_asked_for_and_passed_over_if_not() -> None:
    overflowing = Candidate("float16", 4.0, float("nan"))
    with pytest.raises(ConfigError, match="dtype: float16 cannot hold"):
        decide("float16", (EXACT, overflowing))
    assert verdicts("auto", EXACT, overflowing)["float16"] == "inaccurate"


def test_a_space_without_finite_vectors_is_refused() -> None:
    with pytest.raises(SpaceError, match="the vectors they give are not"):
        decide("auto", (Candidate("float32", 4.0, float("nan")),))


def test_a_dtype_that_is_slow_on_the_small_batch_never_meets_the_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = (Collated(Layout((), True), (), size, [("text",)] * size) for size in (2, 8))
    met: list[tuple[str, int]] = []
    seconds = {"float32": 1.0, "bfloat16": 3.5, "float16": 2.5}

    class Run:
        def __init__(self, dtype: str) -> None:
            self.dtype = dtype

        def __call__(self, batch: Collated) -> object:
            met.append((self.dtype, batch.size))
            return np.ones((len(batch.modalities), 1), np.float32)

    monkeypatch.setattr(warm_up, "best_seconds", lambda run, batch: (run(batch), seconds[run.dtype])[1])
    runs = {dtype: Run(dtype) for dtype in seconds}
    tried = try_dtypes("auto", runs, small, large)  # type: ignore[arg-type]
    assert ("bfloat16", 8) not in met
    assert ("float16", 8) in met
    assert [candidate.us_per_item is None for candidate in tried] == [False, True, False]
    met.clear()
    assert chosen(try_dtypes("bfloat16", runs, small, large)).dtype == "bfloat16"  # type: ignore[arg-type]
    assert ("bfloat16", 8) in met


def test_the_report_tells_what_was_asked_for_and_what_is_active(tmp_path: Path) -> None:
    space = make_space(tmp_path)
    runtime = AlignRuntime(space, device="auto", dtype="auto", threads=1, max_batch=20)
    assert runtime.report is None
    report = runtime.warm_up()
    assert runtime.report is report
    assert (report.space_id, report.requested_device, report.requested_dtype) == (space.space_id, "auto", "auto")
    assert report.device == runtime.device
    assert report.dtype == chosen(report.candidates).dtype
    assert report.threads == 1
    assert list(report.size_ms) == [1, 2, 4, 8, 16, 20]
    assert report.graphed
    assert all(ms > 0 for ms in report.size_ms.values())
    assert json.loads(json.dumps(report.as_dict()))["dtype"] == report.dtype
    assert space.space_id in report.one_line()
    assert f"{report.dtype} chosen" in report.one_line()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_dtype_asked_for_is_active_and_compared_with_float32(tmp_path: Path, dtype: str) -> None:
    report = AlignRuntime(make_space(tmp_path), device="cpu", dtype=dtype, threads=1, max_batch=16).warm_up()
    assert report.dtype == report.requested_dtype == dtype
    assert report.candidates[0].dtype == "float32"
    assert chosen(report.candidates).min_cosine == pytest.approx(1, abs=1 - MIN_COSINE)


def test_embedding_warms_up_if_nobody_has(tmp_path: Path) -> None:
    runtime = AlignRuntime(make_space(tmp_path), device="cpu", dtype="float32", threads=1, max_batch=4)
    runtime.embed(make_items(spec(), 1))
    assert runtime.report is not None


def test_weights_that_give_no_vector_are_refused_before_any_item_is(tmp_path: Path) -> None:
    weights = initial_weights(spec(), 0)
    weights["output.weight"].zero_()
    space = write_space(tmp_path, spec(), weights)
    with pytest.raises(SpaceError, match=r"space\.path"):
        AlignRuntime(space, device="cpu", dtype="float32", threads=1, max_batch=4).warm_up()


def test_no_memory_for_the_largest_batch_names_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise MemoryError

    monkeypatch.setattr("worker.align.runtime.try_dtypes", fail)
    with pytest.raises(ConfigError, match=r"batch\.max_records: no memory on cpu for a batch of 4"):
        AlignRuntime(make_space(tmp_path), device="cpu", threads=1, max_batch=4).warm_up()


def test_an_unknown_dtype_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dtype: 'float8' is unknown"):
        AlignRuntime(make_space(tmp_path), dtype="float8")
