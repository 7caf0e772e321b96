"""`align-worker evaluate`: its flags, and how an evaluation is run and shown."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.commands.arguments import (
    add_command,
    add_dataset_flags,
    event_files,
    positive,
    print_json,
    print_text,
    say,
    seconds,
    share,
    weights,
    withheld,
)
from worker.errors import ConfigError, NotBetterError
from worker.evaluate import BASELINE_NAMES
from worker.printable import printable

if TYPE_CHECKING:
    from worker.align import Space
    from worker.data import Dataset
    from worker.data.trained_on import Overlap, TrainedOn
    from worker.data.withheld import Withheld
    from worker.evaluate.questions import Questions

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
        metavar="N",
        help="of that share: the seed that the space was trained with (default: 0; without lists and share, the items "
        "that the spaces withheld)",
    )
    evaluate.add_argument(
        "--questions",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="ask these instead of what the split gives (as `import questions` writes them): all events may have been "
        "learned; repeatable",
    )
    evaluate.add_argument(
        "--rank-seen", action="store_true", help="of --questions: rank the items of the history with the others"
    )
    evaluate.add_argument(
        "--allow-learned",
        action="store_true",
        help="judge a space by what it has learned, too; the report says how much that is",
    )
    evaluate.add_argument(
        "--baseline",
        action="append",
        choices=[*BASELINE_NAMES, "none"],
        help="what to compare with; repeatable (default: all)",
    )
    evaluate.add_argument(
        "--baseline-seeds",
        type=positive,
        default=3,
        metavar="N",
        help="of those that draw numbers (default: %(default)s)",
    )
    evaluate.add_argument(
        "--baseline-seconds",
        type=seconds,
        metavar="S",
        help="to choose the setting of a baseline; what that leaves out is told; 0: as long as it takes "
        "(default: by the number of events, 120 at most)",
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
    from worker.align.space import TRAINING_FOLDER
    from worker.data import load_dataset
    from worker.data.order import order_of
    from worker.data.trained_on import read_trained_on
    from worker.data.withheld import split_dataset
    from worker.evaluate.evaluation import all_questions, answers_seen
    from worker.evaluate.plots import draw
    from worker.evaluate.report import as_text
    from worker.evaluate.run import Options, evaluate
    from worker.train.codes import measured

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
    weights_by_type = _event_weights(arguments.event, list(spaces.values()))
    loaded = load_dataset(arguments.items, event_files(arguments), weights_by_type)
    dataset = loaded.dataset
    records = {path: read_trained_on(path / TRAINING_FOLDER) for path in spaces}
    split = split_dataset(dataset, _withheld(arguments, records))
    given = _given(arguments, dataset)
    if given is None and not len(split.test_events) and not split.cold_test_I.any():
        raise ConfigError(
            "--events: nobody who is asked has two positive events, and no item is withheld: there is nothing to ask"
        )
    say(
        f"{dataset.num_items:,} items, {dataset.num_users:,} users, {len(split.events):,} positive events; "
        f"{len(split.test_events):,} users asked about, {int(split.cold_test_I.sum()):,} items withheld"
    )
    for line in order_of(split).told():
        say(line)
    options = replace(options, given=given)
    asked = all_questions(split, 0.0) if given is None else {"warm": given}
    overlaps = {
        path: None if record is None else answers_seen(record, dataset, asked) for path, record in records.items()
    }
    check_learned(overlaps, allowed=arguments.allow_learned)
    progress = _Progress()
    document = evaluate(spaces, dataset, split, options, progress)
    document["seen_in_training"] = {
        str(path): None if seen is None else asdict(seen) for path, seen in overlaps.items()
    }
    progress.end()
    coded = {str(path): report for path in spaces if (report := measured(path, dataset)) is not None}
    document["codes"] = {path: report.as_dict() for path, report in coded.items()}
    if arguments.plots is not None:
        drawn = draw(document, arguments.plots)
        say("no plots: matplotlib is missing; pip install 'align-worker[plots]'" if drawn is None
            else f"drawn: {', '.join(map(str, drawn))}")  # fmt: skip
    if arguments.json:
        print_json(document)
    else:
        print_text(as_text(document))
        for path, codes in coded.items():
            print_text("\n".join([f"\nSemantic ids of {path}", *codes.lines()]))
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


def _given(arguments: argparse.Namespace, dataset: Dataset) -> Questions | None:
    from worker.data.question_file import read_questions
    from worker.evaluate.given import given_questions

    if not arguments.questions:
        if arguments.rank_seen:
            raise ConfigError("--rank-seen: it is about --questions; give a file of them")
        return None
    lines = (each for path in arguments.questions for each in read_questions(path))
    given, num_left_out = given_questions(lines, dataset, rank_seen=arguments.rank_seen)
    say(f"{len(given):,} questions given")
    if num_left_out:
        say(f"{num_left_out:,} questions are left out: the items have none of their answers")
    return given


def _withheld(arguments: argparse.Namespace, records: Mapping[Path, TrainedOn | None]) -> Withheld:
    """What is withheld: by the flags, or, where they say nothing of items, by what the spaces withheld."""
    given = withheld(arguments, arguments.split_seed or 0)
    of_items = (arguments.cold_val, arguments.cold_test, arguments.cold_share, arguments.split_seed)
    lists = {(each.cold_val, each.cold_test): path for path, each in records.items() if each is not None}
    if any(each is not None for each in of_items) or not lists:
        return given
    if len(lists) > 1:
        one, other = list(lists.values())[:2]
        raise ConfigError(
            f"{one} and {other} withheld other items from training, so no item is new to both: judge them one by one, "
            f"or train with --cold-val {one}/training/cold_val.txt --cold-test {one}/training/cold_test.txt"
        )
    ((cold_val, cold_test),) = lists
    if cold_test:
        say(f"asking about the {len(cold_test):,} items that were withheld from training")
    return replace(given, cold_val=cold_val, cold_test=cold_test)


MOST_LEARNED = 0.01
"""Of the answers, from which on a space is not judged: late events may shift a few."""


def check_learned(overlaps: Mapping[Path, Overlap | None], *, allowed: bool) -> None:
    """Tell of answers that a space has seen in training. Raises `ConfigError` if these are more than a few, unless that
    is allowed."""
    for path, seen in overlaps.items():
        if seen is None:
            say(f"{path}: there is no record of what it was trained on: nobody can tell whether it learned the answers")
            continue
        if seen.num_learned:
            line = f"{path} has learned {seen.num_learned:,} of the {seen.num_answers:,} answers that are asked for"
            if seen.num_learned > MOST_LEARNED * seen.num_answers and not allowed:
                raise ConfigError(
                    f"{line}: its figures would be too good. Leave out --cold-val, --cold-test, --cold-share and "
                    "--split-seed, give the events that it was trained on (--val-events and --test-events as then), "
                    "or, if it was fitted to everything in the end, judge training/judged in its directory with "
                    "the parts there, or one trained with --no-final-fit; "
                    "--allow-learned judges it all the same"
                )
            say(f"{line}: its figures are too good by what that is worth")
        if seen.num_chosen_by > MOST_LEARNED * seen.num_answers:
            say(
                f"{path} was chosen by {seen.num_chosen_by:,} of the {seen.num_answers:,} answers that are asked for: "
                "its figures may be somewhat too good"
            )


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
