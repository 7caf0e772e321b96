"""`align-worker evaluate`: its flags, and how an evaluation is run and shown."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.commands.arguments import (
    add_command,
    add_dataset_flags,
    positive,
    print_json,
    print_text,
    say,
    seconds,
    share,
    weights,
)
from worker.errors import ConfigError, NotBetterError
from worker.evaluate import BASELINE_NAMES
from worker.printable import printable

if TYPE_CHECKING:
    from worker.align import Space

SECONDS_BETWEEN_LINES = 30.0


def add_evaluate(commands: Any) -> None:
    """The command and its flags."""
    evaluate = add_command(
        commands,
        "evaluate",
        _evaluate,
        "judge spaces beside baselines, by what users did next",
        example="./space --items items.msgpack --events events.msgpack",
    )
    evaluate.add_argument(
        "paths",
        type=Path,
        nargs="*",
        metavar="SPACE",
        help="space to judge; of several of the same shape, trained with different seeds, mean and deviation are shown",
    )
    add_dataset_flags(evaluate)
    evaluate.add_argument(
        "--event",
        action="append",
        default=[],
        metavar="TYPE=WEIGHT",
        help="without a space: what an event of this type is worth. A space says it itself",
    )
    evaluate.add_argument(
        "--split-seed",
        type=int,
        default=0,
        metavar="N",
        help="of that share: the seed that the space was trained with (default: %(default)s)",
    )
    evaluate.add_argument(
        "--baseline",
        action="append",
        choices=[*BASELINE_NAMES, "none"],
        help="what to compare with; repeatable (default: all)",
    )
    evaluate.add_argument(
        "--baseline-seeds", type=positive, default=3, metavar="N", help="of bpr-mf and vbpr (default: %(default)s)"
    )
    evaluate.add_argument(
        "--baseline-seconds",
        type=seconds,
        default=120.0,
        metavar="S",
        help="to choose the setting of a baseline; what that leaves out is told; 0: as long as it takes "
        "(default: %(default)s)",
    )
    evaluate.add_argument(
        "--require-better",
        action="store_true",
        help="end with 12 unless every space is better than the best baseline in one way, and worse in none",
    )
    evaluate.add_argument(
        "--behavior",
        default="behavior",
        metavar="NAME",
        help="modality that was made of events: no baseline takes it for content (default: %(default)s)",
    )
    evaluate.add_argument(
        "--replay-share",
        type=share,
        default=0.2,
        metavar="SHARE",
        help="of the events, the newest, that are replayed; 0 leaves the replay out (default: %(default)s)",
    )
    evaluate.add_argument("--plots", type=Path, metavar="DIR", help="draw the figures there, as PNG")
    evaluate.add_argument("--record", action="store_true", help="write each space's figures into its space.json")
    evaluate.add_argument("--json", action="store_true", help="print the report as JSON")


def _evaluate(arguments: argparse.Namespace) -> int:
    import torch

    from worker.align import Space
    from worker.align.cores import available_cores
    from worker.data import load_dataset
    from worker.data.withheld import split_dataset
    from worker.evaluate.plots import draw
    from worker.evaluate.report import as_text
    from worker.evaluate.run import Options, evaluate

    named = BASELINE_NAMES if arguments.baseline is None else arguments.baseline
    options = Options(
        baselines=tuple(name for name in named if name != "none"),
        baseline_seeds=arguments.baseline_seeds,
        baseline_seconds=arguments.baseline_seconds,
        behavior=arguments.behavior,
        replay_share=arguments.replay_share,
        device=arguments.device,
        record=arguments.record,
    )
    if arguments.require_better and not (arguments.paths and options.baselines):
        raise ConfigError("--require-better compares a space with baselines: name a space, and leave in a baseline")
    torch.set_num_threads(arguments.threads or available_cores())
    spaces = {path: Space.load(path) for path in arguments.paths}
    say("reading items and events")
    loaded = load_dataset(arguments.items, arguments.events, _event_weights(arguments.event, list(spaces.values())))
    dataset = loaded.dataset
    split = split_dataset(dataset, arguments.cold_val, arguments.cold_test, arguments.cold_share, arguments.split_seed)
    if not len(split.test_events) and not split.cold_test_I.any():
        raise ConfigError(
            "--events: no user has five positive events, and no item is withheld: there is nothing to ask"
        )
    say(
        f"{dataset.num_items:,} items, {dataset.num_users:,} users, {len(split.events):,} positive events; "
        f"{len(split.test_events):,} users asked about, {int(split.cold_test_I.sum()):,} items withheld"
    )
    progress = _Progress()
    document = evaluate(spaces, dataset, split, options, progress)
    progress.end()
    if arguments.plots is not None:
        drawn = draw(document, arguments.plots)
        say("no plots: matplotlib is missing; pip install 'align-worker[plots]'" if drawn is None
            else f"drawn: {', '.join(map(str, drawn))}")  # fmt: skip
    if arguments.json:
        print_json(document)
    else:
        print_text(as_text(document))
    if arguments.require_better:
        require_better(document)
    return 0


class _Progress:
    """On a terminal one line that is written over, elsewhere a line for each step and now and then one in between."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._is_terminal = clock, sys.stderr.isatty()
        self._what, self._told_at = "", clock()

    def step(self, number: int, total: int, what: str) -> None:
        self._what, self._told_at = f"{number} of {total}: {what}", self._clock()
        self._show(self._what) if self._is_terminal else say(self._what)

    def candidate(self, count: int, left_s: float) -> None:
        at_most = f", at most {left_s:.0f} s more" if math.isfinite(left_s) else ""
        line = f"{self._what}: {count} settings tried{at_most}"
        if self._is_terminal:
            self._show(line)
        elif self._clock() - self._told_at >= SECONDS_BETWEEN_LINES:
            self._told_at = self._clock()
            say(line)

    def end(self) -> None:
        if self._is_terminal:
            self._show("")

    def _show(self, line: str) -> None:
        print(f"\r{printable(line)}\x1b[K", end="", file=sys.stderr, flush=True)


def require_better(document: Mapping[str, Any]) -> None:
    """Raises `NotBetterError` unless every space is worth shipping."""
    if refused := [name for name, of in document["verdict"].items() if not of["ship"]]:
        raise NotBetterError(f"{', '.join(refused)}: not better than the best baseline; the report says by how much")


def _event_weights(given: Sequence[str], spaces: Sequence[Space]) -> Mapping[str, float]:
    if not spaces:
        if not given:
            raise ConfigError("--event TYPE=WEIGHT: without a space nobody says what events are worth")
        return weights("--event", given)
    if given:
        raise ConfigError("--event: the space says what events are worth; leave it out")
    users = [space.spec.user for space in spaces]
    if users[0] is None or any(user is None or user.event_weights != users[0].event_weights for user in users):
        raise ConfigError("SPACE: all spaces need users with the same event weights, or their figures do not compare")
    return users[0].event_weights
