"""How good vectors are: questions put to a model, rankings judged, baselines to compare with. Knows no Kafka."""

BASELINE_NAMES = (
    "popularity",
    "item-knn",
    "ease",
    "bpr-mf",
    "vbpr",
    "lightgcn",
    "sasrec",
    "content",
    "best-modality",
)
"""What to compare with, in the order that it is shown in."""
