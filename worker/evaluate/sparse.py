"""Sparse matrices of counts."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


def sparse_matrix(indices: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """The values at their indices, `[2, n]`; of several at one place the sum. Raises `RuntimeError` for one outside."""
    with warnings.catch_warnings():
        # torch 2.11 warns that checks are off unless asked for, those who ask for them included.
        warnings.filterwarnings("ignore", "Sparse invariant checks are implicitly disabled", UserWarning)
        return torch.sparse_coo_tensor(indices, values, shape, check_invariants=True)
