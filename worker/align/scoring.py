"""How well an item suits a query: what a ranker does with published vectors, and so what evaluation measures.

Q queries   C candidates   D dim of the space
"""

from __future__ import annotations

from torch import Tensor


def scores(queries_QD: Tensor, vectors_CD: Tensor, priors_C: Tensor | None = None) -> Tensor:
    """`[Q, C]`: dot products, which are cosines where all are of unit length, plus the priors of the candidates.

    A query of zeros, a user without a vector, gets the priors alone.
    """
    scores_QC = queries_QD @ vectors_CD.T
    return scores_QC if priors_C is None else scores_QC + priors_C
