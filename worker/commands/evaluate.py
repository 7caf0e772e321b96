"""`align-worker evaluate`: its flags, and how an evaluation is run and shown."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.commands.arguments import add_command, add_dataset_flags, positive, print_json, say, share, weights
from worker.errors import ConfigError
from worker.evaluate import BASELINE_NAMES

if TYPE_CHECKING:
    from worker.align import Space
    from worker.data import Dataset, Split


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
    document = evaluate(spaces, dataset, split, arguments, say)
    if arguments.plots is not None:
        drawn = draw(document, arguments.plots)
        say("no plots: matplotlib is missing; pip install 'align-worker[plots]'" if drawn is None
            else f"drawn: {', '.join(map(str, drawn))}")  # fmt: skip
    if arguments.json:
        print_json(document)
    else:
        print(as_text(document))
    return 0


def evaluate(
    spaces: Mapping[Path, Space],
    dataset: Dataset,
    split: Split,
    arguments: argparse.Namespace,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Ask everybody everything; the report."""
    from worker.align.space import record_evaluation
    from worker.evaluate.baselines import baselines
    from worker.evaluate.evaluation import COMPARED, Alone, Model, all_questions, judge_baseline, judge_space
    from worker.evaluate.report import report, space_figures

    questions = all_questions(split, arguments.replay_share)
    names = BASELINE_NAMES if arguments.baseline is None else [name for name in arguments.baseline if name != "none"]
    seeds = range(arguments.baseline_seeds)
    models, alone = [], dict[str, list[Alone]]()
    for baseline in baselines(names, dataset.features.keys() - {arguments.behavior}):
        say(f"baseline: {baseline.name}")
        models.append(judge_baseline(baseline, dataset, split, seeds, questions))
    for name, paths in groups(spaces).items():
        answers = []
        for path in paths:
            say(f"space {path}")
            answers.append(judge_space(spaces[path], dataset, split, questions, arguments.device))
            if arguments.record:
                record_evaluation(path, space_figures(answers[-1].rankings))
        rankings = {kind: [each.rankings[kind] for each in answers] for kind in COMPARED if kind in questions}
        models.append(
            Model(name, True, [{}] * len(paths), rankings, sum(each.seconds for each in answers) / len(paths))
        )
        alone[name] = [each.alone for each in answers]
    return {"data": {"fingerprint": dataset.fingerprint}, **report(questions, models, alone)}


def groups(spaces: Mapping[Path, Space]) -> dict[str, list[Path]]:
    """The spaces of the same shape together: they differ in their seeds."""
    found: dict[bytes, list[Path]] = {}
    for path, space in spaces.items():
        found.setdefault(space.spec.canonical(), []).append(path)
    return {
        str(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else ""): paths for paths in found.values()
    }


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
