"""One bad row costs only itself: a batch that fails is halved until the row that breaks it is alone.

Written once, for whatever a model is asked of: items and users to fuse and pool, pieces of content to encode.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from worker.align.errors import OutOfMemoryError
from worker.errors import SystemicError

log = logging.getLogger(__name__)

Row = TypeVar("Row")
Result = TypeVar("Result")


def each_by_itself(
    batch: Sequence[Row],
    compute: Callable[[Sequence[Row]], Sequence[Result | None]],
    require_working: Callable[[Exception], None],
    no_memory: str,
    on_out_of_memory: Callable[[], None] = lambda: None,
) -> list[Result | Exception | None]:
    """One result for each row, in order: what the model gives, None where that is not finite, or the error that the row
    alone causes.

    `require_working` computes what is known to be good before a row is blamed, and raises `SystemicError` where even
    that fails. Raises `SystemicError`, too, when there is no memory for a single row; `no_memory` says so, and what to
    do.
    """
    if not batch:
        return []
    try:
        results: list[Result | Exception | None] = list(compute(batch))
    except OutOfMemoryError as error:
        on_out_of_memory()
        if len(batch) == 1:
            raise SystemicError(f"{no_memory}: {error}") from error
    except SystemicError:
        raise
    except Exception as error:  # whatever a model raises, only the row that causes it may suffer
        if len(batch) == 1:
            require_working(error)
            return [error]
        log.warning("batch of %d failed, halving it: %s", len(batch), error, extra={"action": "bisect"})
    else:
        if len(batch) > 1:  # what is not finite may have spoilt its neighbours: each is judged by what it gives alone
            for index in [index for index, result in enumerate(results) if result is None]:
                alone = batch[index : index + 1]
                results[index] = each_by_itself(alone, compute, require_working, no_memory, on_out_of_memory)[0]
        return results
    middle = len(batch) // 2
    return [
        result
        for half in (batch[:middle], batch[middle:])
        for result in each_by_itself(half, compute, require_working, no_memory, on_out_of_memory)
    ]
