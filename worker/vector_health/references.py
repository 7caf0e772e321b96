"""What the vectors of a space look like when all is well: measured where the space was trained, kept beside it.

D dim of the space   A principal axes   B axes that are cut into bins   Q bins of an axis
P patterns: sets of modalities
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.beside_space import Tensors, read_beside, write_beside
from worker.errors import SpaceError

REFERENCES_FILE = "references.safetensors"
FORMAT_VERSION = 1
NUM_BINNED, NUM_BINS = 8, 10
MOST_AXES = 64
ITEMS_PER_AXIS = 20
"""Fewer leave the variance along an axis too uncertain to judge by."""
LEAST_ITEMS = 200
"""Of a pattern, or it is not told from others."""
LEAST_SHARE = 0.005

TENSORS = (
    "mean_D", "axes_AD", "edges_BQ", "items_P", "means_PD", "variances_PA", "variance_P", "squares_P", "shares_PBQ",
)  # fmt: skip

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class References:
    """Of one space."""

    space_id: str
    mean_D: Floats
    """Of all items."""
    axes_AD: Floats
    """Principal axes within patterns, those of most variance first."""
    edges_BQ: Floats
    """Between the bins, `[B, Q - 1]`."""
    effective_rank: float
    """Of all items: how many axes of equal variance would vary as much."""
    shares: Mapping[str, float]
    """Of items by modality that they have; without modalities that are made of events."""
    patterns: Sequence[tuple[str, ...]]
    """The modalities of items that are alike in them, the most frequent first. By pattern:"""
    items_P: Floats
    """Items measured."""
    means_PD: Floats
    variances_PA: Floats
    """Along the axes, around the mean."""
    variance_P: Floats
    """The whole of it."""
    squares_P: Floats
    """Trace of the square of the covariance beside the axes."""
    shares_PBQ: Floats
    """Of items by bin."""
    usual: Mapping[str, float] = field(default_factory=dict)
    """By check the worst that consecutive items of the catalogue gave, in the order in which it lies: what a stream of
    such an order may give, too."""

    @property
    def dim(self) -> int:
        return len(self.mean_D)


def measured(
    space_id: str,
    vectors: Mapping[tuple[str, ...], NDArray[np.float32]],
    shares: Mapping[str, float],
) -> References | None:
    """References from the vectors of items by the modalities that they have, as they are published. Patterns of few
    items are left out; of the rest the most frequent lead. None where nothing is left."""
    most = max(map(len, vectors.values()), default=0)
    kept = {
        names: rows_ID.astype(np.float64)
        for names, rows_ID in vectors.items()
        if len(rows_ID) >= max(LEAST_ITEMS, LEAST_SHARE * most)
    }
    if not kept:
        return None
    everything_ID = np.concatenate(list(kept.values()))
    mean_D = everything_ID.mean(0)
    centred_ID = np.concatenate([rows_ID - rows_ID.mean(0) for rows_ID in kept.values()])
    covariance_DD = centred_ID.T @ centred_ID / len(centred_ID)
    variances_D, directions_DD = np.linalg.eigh(covariance_DD)
    num_axes = max(1, min(MOST_AXES, len(mean_D), len(centred_ID) // ITEMS_PER_AXIS))
    meaningful = int((variances_D > variances_D.sum() * 1e-6).sum())
    axes_AD = directions_DD[:, ::-1][:, : min(num_axes, max(1, meaningful))].T
    binned_BD = axes_AD[:NUM_BINNED]
    quantiles = np.linspace(0, 1, NUM_BINS + 1)[1:-1]
    edges_BQ = np.quantile(everything_ID @ binned_BD.T, quantiles, axis=0).T
    patterns = sorted(kept, key=lambda names: (-len(kept[names]), names))
    means, variances, squares, shares_of_bins = [], [], [], []
    for names in patterns:
        rows_ID = kept[names]
        means.append(rows_ID.mean(0))
        along_IA = (rows_ID - means[-1]) @ axes_AD.T
        beside_ID = rows_ID - means[-1] - along_IA @ axes_AD
        variances.append((along_IA**2).mean(0))
        squares.append(float(((beside_ID.T @ beside_ID / len(rows_ID)) ** 2).sum()))
        shares_of_bins.append(_binned(rows_ID @ binned_BD.T, edges_BQ))
    return References(
        space_id=space_id,
        mean_D=mean_D,
        axes_AD=axes_AD,
        edges_BQ=edges_BQ,
        effective_rank=_effective_rank(everything_ID - mean_D),
        shares=dict(shares),
        patterns=patterns,
        items_P=np.array([float(len(kept[names])) for names in patterns]),
        means_PD=np.stack(means),
        variances_PA=np.stack(variances),
        variance_P=np.array([kept[names].var(0).sum() for names in patterns]),
        squares_P=np.array(squares),
        shares_PBQ=np.stack(shares_of_bins),
    )


def _binned(along_IB: Floats, edges_BQ: Floats) -> Floats:
    """Shares of items by bin, none of them 0."""
    num_bins = edges_BQ.shape[1] + 1
    counts_BQ = np.stack(
        [
            np.bincount(np.searchsorted(edges_Q, along_I), minlength=num_bins)
            for edges_Q, along_I in zip(edges_BQ, along_IB.T, strict=True)
        ]
    )
    shares_BQ: Floats = (counts_BQ + 0.5) / (len(along_IB) + num_bins / 2)
    return shares_BQ


def _effective_rank(centred_ID: Floats) -> float:
    covariance_DD = centred_ID.T @ centred_ID / len(centred_ID)
    return float(np.trace(covariance_DD) ** 2 / (covariance_DD**2).sum())


def write_references(directory: str | Path, references: References) -> None:
    """Put them beside the space, in the place of older ones. Raises `SpaceError`."""
    about = {
        "space_id": references.space_id,
        "effective_rank": references.effective_rank,
        "shares": dict(references.shares),
        "usual": dict(references.usual),
        "patterns": list(references.patterns),
    }
    tensors = {name: getattr(references, name) for name in TENSORS}
    write_beside(Path(directory) / REFERENCES_FILE, "references", FORMAT_VERSION, about, tensors)


def read_references(directory: str | Path, space_id: str) -> References | None:
    """Those of the space in a directory; None where it has none. Raises `SpaceError` for those of another space, and
    for a file that cannot be read."""
    path = Path(directory) / REFERENCES_FILE
    cure = "measure again with `align-worker space reference`"
    found = read_beside(path, "references", FORMAT_VERSION, _as_written, cure=cure)
    if found is not None and found.space_id != space_id:
        raise SpaceError(
            f"space.path: {path} was measured on space {found.space_id}, and this is {space_id}: measure again with "
            "`align-worker space reference`, or delete the file"
        )
    return found


def _as_written(about: Mapping[str, Any], tensors: Tensors) -> References:
    return References(
        space_id=about["space_id"],
        effective_rank=about["effective_rank"],
        shares=about["shares"],
        patterns=[tuple(names) for names in about["patterns"]],
        usual=about["usual"],
        **{name: tensors[name].astype(np.float64) for name in TENSORS},
    )
