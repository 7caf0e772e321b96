"""The report as pictures. Needs matplotlib, which comes with the extra `plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worker.evaluate.report import KIND_TITLES, MAIN_K, Json

NDCG, RECALL = f"ndcg@{MAIN_K}", f"recall@{MAIN_K}"


def draw(document: Json, directory: Path) -> list[Path] | None:
    """Write the pictures, as PNG, and say which; None, and nothing is drawn, without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    directory.mkdir(parents=True, exist_ok=True)
    drawn = []
    kinds = [kind for kind in KIND_TITLES if kind in document["questions"]]
    figure = Figure(figsize=(5 * len(kinds), 1.5 + 0.3 * len(document["models"])), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        rows = {name: model[kind][NDCG] for name, model in document["models"].items()}
        colors = ["C1" if model["space"] else "C0" for model in document["models"].values()]
        _bars(axes, rows, f"{NDCG}: {KIND_TITLES[kind]}", colors)
    drawn.append(_save(figure, directory / "models.png"))
    for number, (name, alone) in enumerate(document["spaces"].items()):
        panels = [panel for panel in (_freshness, _ablations, _replay) if panel(None, alone)]
        if panels:
            figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
            figure.suptitle(name)
            for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
                panel(axes, alone)
            drawn.append(_save(figure, directory / f"space-{number}.png"))
    return drawn


def _freshness(axes: Any, alone: Json) -> bool:
    """A panel draws if it is given axes, and says whether there is anything to draw."""
    if axes is not None:
        lags = [int(lag) for lag in alone["freshness"]]
        for measure in (RECALL, NDCG):
            cells = [each[measure] for each in alone["freshness"].values()]
            means, errors = [cell["mean"] for cell in cells], [cell["standard_error"] or 0 for cell in cells]
            axes.errorbar(lags, means, errors, marker="o", capsize=3, label=measure)
        axes.set(title="age of the user vector", xlabel="events behind", ylim=(0, None))
        axes.legend()
    return bool(alone["freshness"])


def _ablations(axes: Any, alone: Json) -> bool:
    if axes is not None:
        kind = next(iter(next(iter(alone["ablations"].values()))))
        rows = {left: kinds[kind][NDCG] for left, kinds in alone["ablations"].items()}
        _bars(axes, rows, f"{NDCG} {kind}, modalities left out", ["C0"] * len(rows))
    return bool(alone["ablations"])


def _replay(axes: Any, alone: Json) -> bool:
    if axes is not None:
        rows = {
            f"{way}, {of.replace('_', ' ')}": alone["replay"][of][way][RECALL]
            for of in ("all", "known_to_daily_only")
            if of in alone["replay"]
            for way in ("streaming", "daily")
        }
        _bars(axes, rows, f"{RECALL}, replay", ["C1", "C0"] * (len(rows) // 2))
    return bool(alone["replay"])


def _bars(axes: Any, rows: Mapping[str, Json], title: str, colors: Sequence[str]) -> None:
    means = [cell["mean"] for cell in rows.values()]
    axes.barh(list(rows), means, xerr=[cell["standard_error"] or 0 for cell in rows.values()], color=list(colors))
    axes.invert_yaxis()
    axes.set(title=title, xlim=(0, None))


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=120)
    return path
