"""What is kept of a training beside its space: `training/report.json`, and its curves as `training/curves.png`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worker.train.trainer import EpochReport, Losses
from worker.train.validation import Figures, K

KINDS = {"known": "known items", "content": "known items by content alone", "new": "new items"}
REPORT_FILE, CURVES_FILE = "report.json", "curves.png"


def write_report(folder: Path, report: dict[str, Any]) -> Path:
    path = folder / REPORT_FILE
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return path


def draw_curves(folder: Path, epochs: Sequence[EpochReport], best: int) -> Path | None:
    """Losses, and what validation found, by epoch. None, and nothing is drawn, without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    numbers = [each.epoch for each in epochs]
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, figures = figure.subplots(1, 2)
    for name in Losses._fields:
        losses.plot(numbers, [getattr(each.losses, name) for each in epochs], label=f"{name} loss".replace("_", " "))
    for name in Figures._fields:
        values = [getattr(each.figures, name) for each in epochs]
        if None not in values:
            kind, _, measure = name.partition("_")
            figures.plot(numbers, values, label=f"{KINDS[kind]}, {measure}@{K}")
    for axes, title in ((losses, "losses"), (figures, "validation")):
        axes.axvline(best, color="0.7", linewidth=1)
        axes.set(title=title, xlabel="epoch")
        axes.legend()
    figures.set(ylim=(0, None))
    figure.savefig(folder / CURVES_FILE, dpi=120)
    return folder / CURVES_FILE
