"""What a user would have without aligned vectors: small, seeded methods to compare with."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from worker.errors import ConfigError
from worker.evaluate import BASELINE_NAMES
from worker.evaluate.baselines.choice import Chosen, chosen, validation
from worker.evaluate.baselines.content import BestModality, ContentMean
from worker.evaluate.baselines.factors import BprMf, Vbpr
from worker.evaluate.baselines.item_to_item import Ease, ItemKnn
from worker.evaluate.baselines.known import Baseline, Known, Setting, known_before
from worker.evaluate.baselines.light_gcn import LightGcn
from worker.evaluate.baselines.popularity import Popularity
from worker.evaluate.baselines.sas_rec import SasRec

__all__ = [
    "Baseline",
    "BestModality",
    "BprMf",
    "Chosen",
    "ContentMean",
    "Ease",
    "ItemKnn",
    "Known",
    "LightGcn",
    "Popularity",
    "SasRec",
    "Setting",
    "Vbpr",
    "baselines",
    "chosen",
    "known_before",
    "validation",
]


def baselines(names: Sequence[str], modalities: Collection[str]) -> list[Baseline]:
    """The baselines of these names. `modalities` are what counts as content. Raises `ConfigError` for an unknown name.

    `content` stands for the mean of each modality and that of all.
    """
    if unknown := [name for name in names if name not in BASELINE_NAMES]:
        raise ConfigError(
            f"--baseline {unknown[0]!r}: there is no such baseline; there is: {', '.join(BASELINE_NAMES)}"
        )
    return [each for name in BASELINE_NAMES if name in names for each in _named(name, sorted(modalities))]


def _named(name: str, modalities: Sequence[str]) -> list[Baseline]:
    if name == "content":
        together = [ContentMean(modalities)] if len(modalities) > 1 else []
        return [*(ContentMean([modality]) for modality in modalities), *together]
    if name in ("vbpr", "best-modality") and not modalities:
        return []
    simple: dict[str, Baseline] = {
        "popularity": Popularity(),
        "item-knn": ItemKnn(),
        "ease": Ease(),
        "bpr-mf": BprMf(),
        "vbpr": Vbpr(modalities),
        "lightgcn": LightGcn(),
        "sasrec": SasRec(),
        "best-modality": BestModality(modalities),
    }
    return [simple[name]]
