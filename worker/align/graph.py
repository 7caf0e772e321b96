"""The model as a graph that runs in one call, without the interpreter lock.

Called eagerly, every one of the thirty operations gives the lock up and takes it again. Beside a thread that is busy
in Python each take waits out a switch interval: `tests/bench/model.py` shows what that costs. A traced graph gives
the lock up once. It computes the same bits, because it is run without the optimiser, which would fuse operations
after a few calls.

`torch.jit.trace` is deprecated and there is no successor that needs no compiler at run time; where it is missing or
fails, the model runs eagerly, and the warm-up report says so.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.align.collated import Collated, Layout
from worker.align.model import AlignModel

log = logging.getLogger(__name__)

Computation = Callable[..., tuple[Tensor, ...]]

MAX_GRAPHS = 64  # one per layout; a stream has a handful, and what is beyond runs eagerly


class GraphedModel:
    """Runs a model on collated batches. One graph per layout, made at its first use (10 to 50 ms)."""

    def __init__(self, model: AlignModel, *, device: str = "cpu", modality_vectors: bool = False) -> None:
        self._model = model
        self._device = device
        self._modality_vectors = modality_vectors
        self._graphs: dict[Layout, Computation] = {}
        self.graphed = True
        """False once a layout could not be traced."""

    def __call__(self, batch: Collated) -> list[NDArray[np.float32]]:
        """Vectors `[items, D]`, lengths and priors `[items]`; with `modality_vectors` then vectors and lengths of each
        part of the layout alone."""
        tensors = batch.tensors
        if self._device != "cpu":
            tensors = tuple(tensor.to(self._device, non_blocking=True) for tensor in tensors)
        with torch.inference_mode(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            outputs = self._computation(batch.layout, tensors)(*tensors)
        if self._device != "cpu":
            outputs = tuple(output.cpu() for output in outputs)
        return [output.numpy()[: len(batch.modalities)] for output in outputs]

    def _computation(self, layout: Layout, tensors: tuple[Tensor, ...]) -> Computation:
        known = self._graphs.get(layout)
        if known is not None:
            return known
        eager = self._eager(layout)
        if len(self._graphs) == MAX_GRAPHS:
            return eager
        return self._graphs.setdefault(layout, self._trace(eager, tensors))

    def _eager(self, layout: Layout) -> Computation:
        def compute(*tensors: Tensor) -> tuple[Tensor, ...]:
            return self._model.outputs(layout, tensors, modality_vectors=self._modality_vectors)

        return compute

    def _trace(self, eager: Computation, tensors: tuple[Tensor, ...]) -> Computation:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                graph: Computation = torch.jit.trace(eager, tensors, check_trace=False)  # type: ignore[no-untyped-call]
                return graph
        except (AttributeError, RuntimeError) as error:
            eager(*tensors)  # raises if it is the model or the device that fails, and not tracing
            self.graphed = False
            log.warning("the model runs eagerly, which is slow beside busy threads: %s", error)
            return eager
