"""`align-worker train`: its flags, and how its progress is shown."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from worker.commands.arguments import add_command, add_dataset_flags, event_files, print_json, say, weights, withheld
from worker.errors import ConfigError
from worker.train.settings import TrainSettings

if TYPE_CHECKING:
    from worker.data import LeftOut
    from worker.train.together import Together
    from worker.train.trainer import EpochReport

SECONDS_WORTH_TELLING = 60.0
OWN_FLAGS = ("event_weights",)
"""Settings whose flags are not made from their fields."""


def add_train(commands: Any) -> None:
    """The command and its flags."""
    train = add_command(
        commands,
        "train",
        _train,
        "learn a space from items and what users did with them",
        example="./space --items items.msgpack --events events.msgpack --event view=0.3 --event like=1",
    )
    train.add_argument(
        "out", type=Path, metavar="OUT", help="directory of the space: new, or of a training to go on with"
    )
    add_dataset_flags(train)
    train.add_argument(
        "--event",
        action="append",
        required=True,
        metavar="TYPE=WEIGHT",
        help="what an event of this type is worth; others are not used",
    )
    train.add_argument(
        "--items-out",
        type=Path,
        metavar="FILE",
        help="write what was learned of items from events, as partial messages, for `evaluate` and for the items topic",
    )
    train.add_argument(
        "--codes",
        metavar="LEVELSxCODES",
        help="learn codebooks as well, as 3x256: items are published with semantic ids (`space codes` adds them later)",
    )
    train.add_argument(
        "--like",
        type=Path,
        metavar="SPACE",
        help="make it like this older space: of its shape, from its parameters on, and in its coordinates, so that "
        "vectors of both can be compared (`space relate` measures it); of semantic ids, see `space codes --like`",
    )
    train.add_argument(
        "--like-items",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="of --like: items with what that space has learned of them, as its own --items-out has written it; "
        "repeatable",
    )
    train.add_argument(
        "--closed-form",
        action="store_true",
        help="no steps of learning: content, what is had together and what comes next, mixed as validation says, and "
        "fitted to everything in the end; of the recipe only seed, last and behavior count",
    )
    train.add_argument(
        "--rank-seen",
        action="store_true",
        help="of --closed-form: choose it for lists that may have what the user has had already",
    )
    train.add_argument("--json", action="store_true", help="print the figures of the space as JSON")
    group = train.add_argument_group("recipe", "worker/train/README.md says what each is worth")
    for name, field in TrainSettings.model_fields.items():
        if name not in OWN_FLAGS:
            _add_setting(group, name, field)


def _add_setting(group: Any, name: str, field: FieldInfo) -> None:
    flag, text = f"--{name.replace('_', '-')}", " ".join((field.description or "").split()).rstrip(".")
    if field.annotation == bool | None:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
    elif field.annotation is bool:
        group.add_argument(flag, action="store_true", help=text)
    else:
        shown = "" if field.default in (None, ()) else f"(default: {field.default})"
        group.add_argument(flag, metavar="VALUE", default=argparse.SUPPRESS, help=f"{text} {shown}".strip())


def settings_of(arguments: argparse.Namespace) -> TrainSettings:
    """Raises `ConfigError`, naming the flag."""
    given = {name: value for name, value in vars(arguments).items() if name in TrainSettings.model_fields}
    try:
        return TrainSettings.model_validate({"event_weights": weights("--event", arguments.event), **given})
    except ValidationError as error:
        problem = error.errors()[0]
        flag = "event" if problem["loc"][0] == "event_weights" else str(problem["loc"][0]).replace("_", "-")
        raise ConfigError(f"--{flag} {problem['input']}: {problem['msg']}") from None


def _train(arguments: argparse.Namespace) -> int:
    from worker.align.device import resolve_device
    from worker.train.together import own_device, processes

    device = resolve_device(own_device(arguments.device))
    with processes(device) as together, ExitStack() as opened:
        if together.is_first:
            return _train_with(arguments, device, together, arguments.out)
        if arguments.closed_form:
            return 0  # the first does that alone
        nowhere = opened.enter_context(open(os.devnull, "w", encoding="utf-8"))
        opened.enter_context(redirect_stderr(nowhere))
        opened.enter_context(redirect_stdout(nowhere))
        own = Path(opened.enter_context(TemporaryDirectory(prefix="align-train-")))
        return _train_with(arguments, device, together, own / "space")


def _train_with(arguments: argparse.Namespace, device: str, together: Together, out: Path) -> int:
    """One process of a training, which writes its space to `out`."""
    import torch

    from worker.align.cores import available_cores
    from worker.align.space import TRAINING_FOLDER, require_free
    from worker.data import load_dataset
    from worker.data.files import write_items
    from worker.data.order import order_of
    from worker.data.withheld import split_dataset
    from worker.train.closed_form import closed_form_space
    from worker.train.codes import add_codes, code_sizes
    from worker.train.like import like_space
    from worker.train.outlook import most_epochs
    from worker.train.run import JUDGED_FOLDER, PARTS_FILE, item_parts, train
    from worker.train.together import of_this_machine

    if arguments.like is None and arguments.like_items:
        raise ConfigError("--like-items is for --like")
    if arguments.like is not None and arguments.closed_form:
        raise ConfigError("--like is not for --closed-form, which learns nothing step by step")
    settings = settings_of(arguments)
    sizes = None if arguments.codes is None else code_sizes(arguments.codes)
    if not settings.positive_weights():
        raise ConfigError("--event: no type has a weight above 0: there is nothing to learn from")
    named = arguments.cold_val, arguments.cold_test, arguments.val_events, arguments.test_events
    if settings.final_fit is None and any(named):
        say("no final fit: files name what is to be judged by; to ship a space that has learned it, too: --final-fit")
        settings = settings.model_copy(update={"final_fit": False})
    require_free(out)
    torch.set_num_threads(arguments.threads or max(1, available_cores() // of_this_machine()))
    say("reading items and events")
    loaded = load_dataset(arguments.items, event_files(arguments), settings.event_weights)
    dataset = loaded.dataset
    split = split_dataset(dataset, withheld(arguments, settings.seed))
    say(
        f"{dataset.num_items:,} items ({', '.join(dataset.features) or 'no features'}), {dataset.num_users:,} users, "
        f"{len(split.events):,} positive events, {int(split.train_E.sum()):,} to learn from"
    )
    for line in (*told(loaded.left_out), *order_of(split).told()):
        say(line)
    if arguments.closed_form:
        trained = closed_form_space(dataset, split, settings, arguments.out, rank_seen=arguments.rank_seen)
    else:
        like = None
        if arguments.like is not None:
            files = [*arguments.items, *arguments.like_items]
            items = load_dataset(files, [], {}).dataset if arguments.like_items else dataset
            like = like_space(arguments.like, items, dataset, split)
        if together.size > 1:
            say(f"{together.size} processes divide the questions of a step among them")
        watcher, checkpoints = _Terminal(most_epochs(settings)), arguments.out / TRAINING_FOLDER
        trained = train(dataset, split, settings, out, device, watcher, like, together, checkpoints)
    if not together.is_first:
        return 0
    space = trained.shipped.space
    for line in trained.told:
        say(line)
    if trained.judged is not trained.shipped:
        judged = arguments.out / TRAINING_FOLDER / JUDGED_FOLDER
        write_items(judged / PARTS_FILE, item_parts(loaded, trained.judged.learned, settings.behavior))
        say(
            f"the figures are of {judged}, which was not asked for what it had learned; to judge it: "
            f"align-worker evaluate {judged} --items {judged / PARTS_FILE} with the items and events given here"
        )
    if arguments.items_out is not None:
        parts = item_parts(loaded, trained.shipped.learned, settings.behavior)
        say(
            f"{write_items(arguments.items_out, parts):,} parts of items in {arguments.items_out}; to the topic: "
            f"align-worker send {arguments.items_out}"
        )
    if sizes is not None:
        learned = trained.shipped.learned
        coded = add_codes(arguments.out, dataset, learned.features, learned.neighbors, sizes, seed=settings.seed)
        for line in coded.lines():
            say(line)
    figures = {"space_id": space.space_id, **space.manifest.evaluation}
    if arguments.json:
        print_json(figures)
    else:
        say(f"space {space.space_id} in {arguments.out}; how it was trained: {arguments.out}/training")
    return 0


def told(left_out: LeftOut) -> Iterator[str]:
    """Lines about input that was read and not used."""
    for name, count in sorted(left_out.unencoded.items()):
        yield f"{count:,} items bring raw {name} and no vector of it: encode them first with `align-worker encode`"
    for name, count in sorted(left_out.uninformative.items()):
        yield f"{count:,} features of {name} are left out, or vectors of them: they say nothing (zeros, one value)"
    for kind, count in sorted(left_out.unweighted.items()):
        yield f"{count:,} events of type {kind!r} are left out: no --event names it"
    if left_out.future:
        yield f"{left_out.future:,} events are left out: their times lie in the future"
    if left_out.unknown_items:
        yield f"{left_out.unknown_items:,} events are left out: their items are not in the files"


class _Terminal:
    """Shows a bar while an epoch runs, or on a pipe a line now and then, and a line when it has ended. The first steps
    say how long all of it will take."""

    def __init__(self, most_epochs: int) -> None:
        self._epochs_left = most_epochs
        self._estimated = False

    def begin(self, what: str) -> None:
        say(what)

    @contextmanager
    def epoch(self, number: int, num_steps: int) -> Iterator[Callable[[], object]]:
        from tqdm import tqdm

        from worker.train.outlook import EpochOutlook

        outlook = EpochOutlook(num_steps, time.monotonic())
        with tqdm(total=num_steps, desc=f"epoch {number}", unit=" steps", disable=None, leave=False) as bar:

            def stepped() -> None:
                now_s = time.monotonic()
                outlook.step(now_s)
                bar.update()
                if not self._estimated and (estimate := outlook.estimate(now_s, self._epochs_left)):
                    self._estimated = True
                    say(estimate)
                if bar.disable and (line := outlook.line(now_s)):
                    say(f"epoch {number}: {line}")

            yield stepped

    def tell(self, report: EpochReport, is_best: bool) -> None:
        from worker.train.outlook import duration

        figures = [f"loss {report.losses.next_item:.3f}", f"agreement {report.losses.agreement:.3f}"]
        for name, value in (
            ("known", report.figures.known_ndcg),
            ("by content", report.figures.content_ndcg),
            ("new", report.figures.new_ndcg),
        ):
            if value is not None:
                figures.append(f"NDCG@20 {name} {value:.4f}")
        self._epochs_left -= 1
        left_s = self._epochs_left * report.seconds
        left = f", at most {duration(left_s)} more" if report.epoch == 1 and left_s > SECONDS_WORTH_TELLING else ""
        say(f"epoch {report.epoch}: {', '.join(figures)}; {report.seconds:.1f} s{left}{' *' if is_best else ''}")
