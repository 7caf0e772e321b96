"""`align-worker space`: making, showing and checking spaces, and moving from one to the next."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.commands.arguments import (
    add_command,
    add_settings,
    connected,
    pairs,
    positive,
    positive_number,
    print_json,
    print_text,
    say,
    settings_from,
    sizes,
    weights,
)
from worker.errors import ConfigError

if TYPE_CHECKING:
    from worker.rollout.steps import Report


def add_space(commands: Any) -> None:
    """The commands and their flags."""
    space = commands.add_parser("space", help="make, show and check the space that vectors live in")
    spaces = space.add_subparsers(metavar="COMMAND", required=True)
    create = add_command(
        spaces,
        "create",
        _space_create,
        "make a seeded, untrained space",
        example="./space --modality text=768 --modality image=512 --dim 256",
    )
    create.add_argument("path", type=Path, metavar="PATH")
    create.add_argument(
        "--modality",
        action="append",
        default=[],
        metavar="NAME=DIM",
        help="a modality and the size of its vectors",
    )
    create.add_argument(
        "--encoders",
        metavar="NAME=MODEL,…",
        help="modalities of these encoders, as encode.encoders names them: they are loaded, and asked for their names "
        "and sizes",
    )
    create.add_argument(
        "--encoder",
        action="append",
        default=[],
        metavar="NAME=ENCODER",
        help="only accept features of this encoder",
    )
    create.add_argument(
        "--dim", type=positive, default=256, help="size of the published vectors (default: %(default)s)"
    )
    create.add_argument("--fusion", default="self_attention", help="kind of fusion (default: %(default)s)")
    create.add_argument("--layers", type=positive, help="of self_attention (default: 1)")
    create.add_argument("--heads", type=positive, help="of an attention (default: 4)")
    create.add_argument(
        "--max-vectors",
        action="append",
        default=[],
        metavar="NAME=N",
        help="vectors of a modality per item (default: 1)",
    )
    create.add_argument(
        "--event",
        action="append",
        default=[],
        metavar="TYPE=WEIGHT",
        help="what a user event of this type is worth; others are not used (default: view=0.3 like=1 save=1.5 "
        "purchase=2 dislike=-0.5)",
    )
    create.add_argument(
        "--half-life-days",
        type=positive_number,
        default=7.0,
        metavar="DAYS",
        help="after which a user event is worth half (default: %(default)s)",
    )
    create.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    add_settings(create)
    reference = add_command(
        spaces,
        "reference",
        _space_reference,
        "measure what vectors of a space look like when all is well, for vector health (`train` does it by itself)",
        example="./space --items items.msgpack",
    )
    reference.add_argument("path", type=Path, metavar="PATH")
    reference.add_argument(
        "--items", type=Path, action="append", required=True, metavar="FILE", help="items as they will come"
    )
    codes = add_command(
        spaces,
        "codes",
        _space_codes,
        "learn codebooks of a space, so that items are published with semantic ids; or say what its codes are worth",
        example="./space --items items.msgpack --codes 3x256",
    )
    codes.add_argument("path", type=Path, metavar="PATH")
    codes.add_argument("--items", type=Path, action="append", required=True, metavar="FILE", help="items as they come")
    codes.add_argument("--codes", metavar="LEVELSxCODES", help="what to learn; without it, what there is is measured")
    codes.add_argument(
        "--like", type=Path, metavar="SPACE", help="items keep the codes of this space, or of this one, where they can"
    )
    codes.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    related = add_command(
        spaces,
        "relate",
        _space_relate,
        "measure whether vectors of a space can stand beside those of an older one, and if so write that into its "
        "space.json: workers then publish into the topic that holds the older one's",
        example="./old ./new --items items.msgpack --old-items old-parts.msgpack --new-items new-parts.msgpack",
    )
    related.add_argument("old", type=Path, metavar="OLD")
    related.add_argument("new", type=Path, metavar="NEW")
    for flag, text in (
        ("--items", "items as both spaces take them; repeatable"),
        ("--old-items", "what OLD has learned of them, as `train --items-out` has written it; repeatable"),
        ("--new-items", "the same of NEW; repeatable"),
        (
            "--events",
            "events: users of one space are asked for their last item among the items of the other; repeatable",
        ),
    ):
        related.add_argument(
            flag, type=Path, action="append", default=[], required=flag == "--items", metavar="FILE", help=text
        )
    related.add_argument(
        "--event", action="append", default=[], metavar="TYPE=WEIGHT", help="of --events: what a type is worth"
    )
    related.add_argument("--json", action="store_true", help="print what was found as JSON")
    show = add_command(spaces, "show", _space_show, "print what a space holds, as JSON", example="./space")
    show.add_argument("path", type=Path, metavar="PATH")
    check = add_command(
        spaces, "check", _space_check, "load a space, run it, and time it", example="./space --device cpu"
    )
    check.add_argument("path", type=Path, metavar="PATH")
    check.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    check.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16 (default: %(default)s)")
    check.add_argument("--threads", type=positive, metavar="N", help="(default: one less than there are cores)")
    check.add_argument("--json", action="store_true", help="the whole report")
    rollout = add_command(
        spaces,
        "rollout",
        _space_rollout,
        "have running workers move to another space: PATH begins, status, cutover, rollback and finish lead on",
        example="/space/next --space.path /space/current --kafka.bootstrap_servers broker:9092",
    )
    rollout.add_argument(
        "step",
        metavar="PATH|STEP",
        help="directory of the next space, as the workers see it; or one of status, cutover (readers read it), "
        "rollback (readers go back), finish (the space that they read is the only one)",
    )
    rollout.add_argument(
        "--accept-missing",
        type=int,
        default=0,
        metavar="N",
        help="of cutover: although so many items have no vector in the next space (default: %(default)s)",
    )
    rollout.add_argument(
        "--accept-health",
        action="store_true",
        help="of cutover: although vectors of the next space are ill, or too few of them have been judged",
    )
    rollout.add_argument(
        "--swap",
        action="store_true",
        help="of PATH: put it in the place of the present space, in the same topics, between two batches; for one "
        "that differs in its weights alone and was measured to be comparable (`space relate`)",
    )
    rollout.add_argument("--abandon", action="store_true", help="of finish: before a cutover, give the rollout up")
    rollout.add_argument("--json", action="store_true", help="where it stands, as JSON")
    add_settings(rollout)


def _space_create(arguments: argparse.Namespace) -> int:
    from worker.align import command

    modalities, encoders = sizes("--modality", arguments.modality), pairs("--encoder", arguments.encoder)
    if arguments.encoders is not None:
        for name, (dim, encoder) in _asked(arguments).items():
            if name in modalities or name in encoders:
                raise ConfigError(f"--encoders: {name} is given by --modality or --encoder, too: give one of them")
            modalities[name], encoders[name] = dim, encoder
    if not modalities:
        raise ConfigError("a space needs modalities: give --modality NAME=DIM or --encoders NAME=MODEL")
    space = command.create(
        arguments.path,
        modalities,
        arguments.dim,
        encoders=encoders,
        fusion=arguments.fusion,
        layers=arguments.layers,
        heads=arguments.heads,
        max_vectors=sizes("--max-vectors", arguments.max_vectors),
        seed=arguments.seed,
        half_life_days=arguments.half_life_days,
        event_weights=weights("--event", arguments.event),
    )
    print_text(f"space {space.space_id} in {arguments.path}")
    if space.spec.user is not None:
        print_text(command.events_that_count(space.spec.user))
    return 0


def _asked(arguments: argparse.Namespace) -> dict[str, tuple[int, str]]:
    """Dimensions and name of each modality's encoder, from the encoder."""
    from worker.encode.setup import content_encoder

    settings = settings_from(arguments, {"encode.encoders": arguments.encoders})
    encoder = content_encoder(settings.encode, device=settings.device, dtype=settings.dtype)
    try:
        return {name: (route.encoder.dim, route.encoder.name) for name, route in encoder.routes.items()}
    finally:
        encoder.close()


def _space_reference(arguments: argparse.Namespace) -> int:
    from worker.align.space import Space
    from worker.data import load_dataset
    from worker.train.references import add_references
    from worker.vector_health.references import LEAST_ITEMS

    space = Space.load(arguments.path)
    dataset = load_dataset(arguments.items, [], {}).dataset
    references = add_references(arguments.path, dataset, dataset.features, None, made_of_events=space.spec.prior)
    if references is None:
        raise ConfigError(f"--items: too few to know vectors by: it takes {LEAST_ITEMS} with the same modalities")
    patterns = ", ".join(
        f"{'+'.join(names)} {count:,.0f}" for names, count in zip(references.patterns, references.items_P, strict=True)
    )
    print_text(f"references of space {references.space_id} in {arguments.path}, measured on items of {patterns}")
    return 0


def _space_codes(arguments: argparse.Namespace) -> int:
    from worker.data import load_dataset
    from worker.train.codes import add_codes, code_sizes, measured

    sizes = None if arguments.codes is None else code_sizes(arguments.codes)
    dataset = load_dataset(arguments.items, [], {}).dataset
    if sizes is None:
        report = measured(arguments.path, dataset)
        if report is None:
            raise ConfigError(f"{arguments.path} has no codes: learn some with --codes 3x256")
    else:
        report = add_codes(
            arguments.path, dataset, dataset.features, None, sizes, seed=arguments.seed, like=arguments.like
        )
    for line in report.lines():
        print_text(line)
    return 0


def _space_relate(arguments: argparse.Namespace) -> int:
    from worker.align.space import Space, record_compatible
    from worker.data import load_dataset
    from worker.data.withheld import Withheld, split_dataset
    from worker.errors import SpaceError
    from worker.evaluate.questions import warm_questions
    from worker.evaluate.relate import relate

    if bool(arguments.events) != bool(arguments.event):
        raise ConfigError("--events and --event belong together: give files, and what a type in them is worth")
    old, new = Space.load(arguments.old), Space.load(arguments.new)
    if old.space_id == new.space_id:
        raise ConfigError(f"OLD and NEW are the same space, {old.space_id}")
    worth = weights("--event", arguments.event)
    old_items, new_items = (
        load_dataset([*arguments.items, *more], arguments.events, worth).dataset
        for more in (arguments.old_items, arguments.new_items)
    )
    if list(old_items.item_ids) != list(new_items.item_ids):
        raise ConfigError("--old-items, --new-items: they bring items that --items lacks: give these there, too")
    questions = None
    if arguments.events:
        questions = warm_questions(split_dataset(new_items, Withheld(cold_share=0.0)), "test")
    found = relate(old, new, old_items, new_items, questions)
    record_compatible(arguments.new, old.space_id, None if found.against else found.figures)
    if arguments.json:
        print_json({"old": old.space_id, "new": new.space_id, "figures": found.figures, "against": found.against})
    else:
        for name, value in found.figures.items():
            print_text(f"{name}: {value:,.0f}" if name == "items" else f"{name}: {value:.4f}")
    if found.against:
        raise SpaceError(
            f"vectors of {arguments.new} cannot stand beside those of {arguments.old}: {'; '.join(found.against)}"
        )
    say(f"{arguments.new}/space.json says so: workers add its vectors to a topic that holds space {old.space_id}")
    return 0


def _space_show(arguments: argparse.Namespace) -> int:
    from worker.align import command
    from worker.align.space import Space

    print_json(command.show(arguments.path))
    if (user := Space.load(arguments.path).spec.user) is not None:
        say(command.events_that_count(user))
    return 0


def _space_check(arguments: argparse.Namespace) -> int:
    from worker.align import command

    report = command.check(
        arguments.path, device=arguments.device, dtype=arguments.dtype, threads=arguments.threads or 0
    )
    if arguments.json:
        print_json(report.as_dict())
    else:
        print_text(report.text())
    return 0


STEPS = ("status", "cutover", "rollback", "finish")


def _space_rollout(arguments: argparse.Namespace) -> int:
    from worker.rollout import steps

    step: str = arguments.step
    if arguments.swap and step in STEPS:
        raise ConfigError("--swap is for the directory of a space")
    if arguments.accept_missing and step != "cutover":
        raise ConfigError("--accept-missing is for cutover")
    if arguments.accept_health and step != "cutover":
        raise ConfigError("--accept-health is for cutover")
    if arguments.abandon and step != "finish":
        raise ConfigError("--abandon is for finish")
    if step not in STEPS and not Path(step).is_dir():
        raise ConfigError(f"{step} is neither a directory nor one of {', '.join(STEPS)}")
    settings = settings_from(arguments)
    client = connected(settings)
    match step:
        case "status":
            pass
        case "cutover":
            steps.cut_over(client, settings, arguments.accept_missing, accept_health=arguments.accept_health)
        case "rollback":
            steps.roll_back(client, settings)
        case "finish":
            steps.finish(client, settings, abandon=arguments.abandon)
        case _ if arguments.swap:
            steps.swap(client, settings, Path(step))
        case _:
            _, made = steps.begin(client, settings, Path(step))
            if made:
                say(f"made {', '.join(made)}")
    _print_report(steps.report(client, settings), as_json=arguments.json)
    return 0


def _print_report(report: Report, *, as_json: bool) -> None:
    from worker.rollout.health import health_objections
    from worker.rollout.plan import Phase

    plan, failure = report.standing.plan, report.standing.failure
    if as_json:
        progress = {role: {**asdict(each), "is_complete": each.is_complete} for role, each in report.progress.items()}
        document = None if plan is None else json.loads(plan.encode())
        health = {role: asdict(each) for role, each in report.health.items()}
        print_json(
            {
                "plan": document,
                "failure": failure,
                "progress": progress,
                "health": health,
                "objections": list(report.objections),
            }
        )
        return
    if plan is None:
        print_text("no rollout so far")
        return
    readers = plan.readers
    topics = [readers.outputs(role) for role in plan.roles]
    print_text(f"{plan.phase}: readers read space {readers.space_id} in {', '.join(topics)}")
    if plan.is_swap and plan.swapped_from is not None:
        print_text(f"it has come in the place of space {plan.swapped_from.space_id}")
        if failure:
            print_text(f"FAILED: {failure}; `space rollout rollback` takes it back")
    if plan.next is None:
        return
    other = plan.primary if readers is plan.next else plan.next
    print_text(
        f"published beside it: space {other.space_id} in {', '.join(other.outputs(role) for role in plan.roles)}"
    )
    if failure:
        print_text(f"FAILED: {failure}")
    for role, each in report.progress.items():
        left = f", {each.num_left} left" if each.num_left else ""
        missing = f", {each.num_missing} without a vector in the next space" if each.num_missing else ""
        print_text(f"{role}: {each.num_complete} of {each.num_partitions} partitions complete{left}{missing}")
    for role, found in sorted(report.health.items()):
        well = f"ill by {', '.join(found.ill)}" if found.ill else "well"
        print_text(f"{role}: the last {found.num_judged:,} vectors of the next space that were judged are {well}")
    for objection in health_objections(report.health) if plan.phase is Phase.MOVING else ():
        print_text(f"the cutover stays shut: {objection}")
