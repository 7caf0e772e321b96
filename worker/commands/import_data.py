"""`align-worker import`: what each kind of file takes, and what is made of it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.commands.arguments import add_command, pairs, positive, print_json, print_text, say, share, sizes
from worker.errors import ConfigError, DataError
from worker.monitoring.refusals import MAX_SHARE, check_refused

if TYPE_CHECKING:
    from worker.data.importers import Imported

MAX_BAD_ROWS_SHOWN = 20
TABLES = {
    "parquet": "items and events from Parquet files",
    "jsonl": "items and events from files with a JSON object a line",
    "csv": "events, or items without vectors, from CSV files with a header",
}
EXAMPLES = {
    "parquet": "--items items.parquet --vectors text=embedding --encoder text=my-model --out data",
    "jsonl": "--items items.jsonl --events events.jsonl --vectors text=embedding --out data",
    "csv": "--events events.csv --event-type view --time-unit s --out data",
}


def add_import(commands: Any) -> None:
    """The sub-commands of `import`."""
    kinds = commands.add_parser("import", help="turn other files into files of items and events")
    imports = kinds.add_subparsers(metavar="KIND", required=True)
    _add_movielens(imports)
    _add_arrays(imports)
    for form, help_text in TABLES.items():
        _add_table(imports, form, help_text)
    _add_matrix(imports)
    _add_questions(imports)
    _add_synthetic(imports)


def _add_matrix(imports: Any) -> None:
    matrix = add_command(
        imports,
        "matrix",
        _matrix,
        "events from matrices of users and items (scipy.sparse, .npz), without times",
        example="--train train.npz --test test.npz --event-type like --out data",
    )
    matrix.add_argument("--train", type=Path, required=True, metavar="FILE", help="a row for each user")
    for name, purpose in (("val", "choose"), ("test", "judge")):
        matrix.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"entries that are to {purpose} by")
    for name in ("user", "item"):
        matrix.add_argument(
            f"--{name}-ids", type=Path, metavar="FILE", help="one a line, instead of the numbers from 0"
        )
    matrix.add_argument("--event-type", required=True, metavar="TYPE", help="type of all events")
    _add_output(matrix)


def _add_questions(imports: Any) -> None:
    questions = add_command(
        imports,
        "questions",
        _questions,
        "events, and questions for `evaluate`, from tables with a history and what came next in each row",
        example="--rows valid.csv --event-type view --out data",
    )
    questions.add_argument(
        "--rows", type=Path, action="append", required=True, metavar="FILE", help=".csv, .jsonl or .parquet; repeatable"
    )
    for name, default in (("user", "user_id"), ("history", "history"), ("target", "target")):
        questions.add_argument(f"--{name}-column", default=default, metavar="COLUMN", help="(default: %(default)s)")
    questions.add_argument(
        "--separator", default=" ", metavar="TEXT", help="between the ids of a history (default: a space)"
    )
    questions.add_argument("--event-type", required=True, metavar="TYPE", help="type of all events")
    _add_output(questions)


def _add_movielens(imports: Any) -> None:
    movielens = add_command(
        imports,
        "movielens",
        _movielens,
        "ratings.csv and movies.csv, or the .dat files",
        example="--ratings ratings.csv --items movies.csv --out data",
    )
    movielens.add_argument(
        "--ratings", type=Path, required=True, metavar="FILE", help="userId, movieId, rating, timestamp"
    )
    movielens.add_argument("--items", type=Path, required=True, metavar="FILE", help="movieId, title")
    movielens.add_argument(
        "--features", type=Path, metavar="FILE", help="vectors and lists of the same films, as `import npy --archive`"
    )
    movielens.add_argument(
        "--like-from", type=float, default=4.0, metavar="R", help="ratings from here on are a `like` (default: 4)"
    )
    movielens.add_argument(
        "--dislike-to", type=float, default=2.0, metavar="R", help="ratings up to here are a `dislike` (default: 2)"
    )
    _add_vectors(movielens)
    _add_output(movielens)


def _add_arrays(imports: Any) -> None:
    arrays = add_command(
        imports,
        "npy",
        _arrays,
        "vectors from NumPy files",
        example="--ids ids.txt --vectors text=text.npy --encoder text=my-model --out data",
    )
    arrays.add_argument(
        "--archive",
        type=Path,
        metavar="FILE",
        help="an .npz file: item_id; numbers [I, D] or [I, N, D] for each modality; has_NAME, which items have it; "
        "any other truth values, lists of items",
    )
    arrays.add_argument("--ids", type=Path, metavar="FILE", help="instead: the ids, as .npy or one a line")
    arrays.add_argument(
        "--vectors", action="append", default=[], metavar="NAME=FILE", help="and an .npy file for each modality"
    )
    _add_vectors(arrays)
    _add_output(arrays)


def _add_table(imports: Any, form: str, help_text: str) -> None:
    table = add_command(imports, form, _table, help_text, example=EXAMPLES[form])
    table.set_defaults(form=form)
    table.add_argument("--items", type=Path, nargs="+", default=[], metavar="FILE", help="tables with an item a row")
    table.add_argument("--events", type=Path, nargs="+", default=[], metavar="FILE", help="tables with an event a row")
    table.add_argument(
        "--mapping",
        type=Path,
        metavar="FILE",
        help="what becomes of a row, as for topics (worker/mapping/README.md), instead of the flags below",
    )
    table.add_argument(
        "--vectors", action="append", default=[], metavar="NAME=COLUMN", help="column with the vectors of a modality"
    )
    table.add_argument(
        "--text", action="append", default=[], metavar="NAME=COLUMN", help="column with text for an encoder to read"
    )
    table.add_argument(
        "--item-column",
        action="append",
        default=[],
        metavar="FIELD=COLUMN",
        help="column of item_id, revision, event_time_ms, neighbors or title, if it is not called so",
    )
    table.add_argument(
        "--event-column",
        action="append",
        default=[],
        metavar="FIELD=COLUMN",
        help="column of event_id, user_id, item_id, event_type, event_time_ms or value, if it is not called so",
    )
    table.add_argument("--event-type", metavar="TYPE", help="type of all events, if there is no column of it")
    table.add_argument(
        "--time-unit",
        choices=("s", "ms", "us", "ns"),
        default="ms",
        help="of times that are numbers, since 1970 (default: ms)",
    )
    _add_vectors(table)
    _add_output(table)


def _add_synthetic(imports: Any) -> None:
    synthetic = add_command(
        imports,
        "synthetic",
        _synthetic,
        "make items and events up, with a known structure",
        example="--items 2000 --out data",
    )
    for name, default, help_text in (
        ("items", 2_000, "items"),
        ("users", 500, "users"),
        ("events", 50_000, "events"),
        ("days", 360, "days that they are spread over"),
        ("drift-days", 360, "days in which a taste turns into another"),
    ):
        synthetic.add_argument(
            f"--{name}", type=positive, default=default, metavar="N", help=f"{help_text} (default: {default})"
        )
    for name, value, help_text in (
        ("cold-share", 0.15, "of the items, released late, half of them listed as cold_val, half as cold_test"),
        ("missing-share", 0.2, "of the modalities of items"),
        ("clutter-share", 0.0, "of an item's further vectors, which say nothing of it"),
    ):
        synthetic.add_argument(
            f"--{name}", type=share, default=value, metavar="S", help=f"{help_text} (default: {value})"
        )
    synthetic.add_argument(
        "--max-vectors", action="append", default=[], metavar="NAME=N", help="vectors of a modality (default: 1)"
    )
    synthetic.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    _add_output(synthetic)


def _add_vectors(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--encoder",
        action="append",
        default=[],
        metavar="NAME=ENCODER",
        help="what made the vectors of a modality (default: its name)",
    )
    command.add_argument(
        "--dtype", choices=("f2", "f4", "bf2", "i1"), default="f2", help="of vectors written (default: %(default)s)"
    )


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the files are written")
    command.add_argument("--compress", choices=("gz", "zst"), help="write compressed files")
    command.add_argument(
        "--max-refused",
        type=share,
        default=MAX_SHARE,
        metavar="S",
        help="with --skip-bad-rows: end with 13 if more than this share of the rows was left out, or all (default: "
        "%(default)s)",
    )
    command.add_argument("--skip-bad-rows", action="store_true", help="leave out rows that are wrong, and count them")
    command.add_argument("--json", action="store_true", help="print the summary as JSON")


# ---------------------------------------------------------------------- commands


def _movielens(arguments: argparse.Namespace) -> int:
    from worker.data.importers.arrays import read_archive
    from worker.data.importers.movielens import MovieLens

    found = MovieLens(
        arguments.ratings,
        arguments.items,
        None if arguments.features is None else read_archive(arguments.features),
        arguments.like_from,
        arguments.dislike_to,
        pairs("--encoder", arguments.encoder),
        arguments.dtype,
    )
    return _save(arguments, found.imported)


def _arrays(arguments: argparse.Namespace) -> int:
    from worker.data.importers.arrays import read_archive, read_arrays

    vectors = {name: Path(file) for name, file in pairs("--vectors", arguments.vectors).items()}
    if arguments.archive is not None and not (arguments.ids or vectors):
        arrays = read_archive(arguments.archive)
    elif arguments.archive is None and arguments.ids and vectors:
        arrays = read_arrays(arguments.ids, vectors)
    else:
        raise ConfigError("import npy: give either --archive, or --ids and --vectors")
    encoders = pairs("--encoder", arguments.encoder)
    return _save(arguments, lambda on_bad_row: arrays.imported(encoders, arguments.dtype, on_bad_row))


def _matrix(arguments: argparse.Namespace) -> int:
    from worker.data.importers import Imported
    from worker.data.importers.matrix import matrix_events, read_matrix
    from worker.data.lists import read_ids

    user_ids, item_ids = (None if path is None else read_ids(path) for path in (arguments.user_ids, arguments.item_ids))
    events = {
        name: matrix_events(read_matrix(path), user_ids, item_ids, arguments.event_type)
        for name, path in (
            ("events", arguments.train), ("val_events", arguments.val), ("test_events", arguments.test)
        )
        if path is not None
    }  # fmt: skip
    code = _save(arguments, lambda _: Imported(events=events.pop("events"), withheld_events=events))
    say("times are made up: these files are for `train` and `evaluate`, not for a topic")
    return code


def _questions(arguments: argparse.Namespace) -> int:
    from worker.data.importers.histories import HistoryRows, import_questions

    if not arguments.separator:
        raise ConfigError("--separator: should not be empty")
    rows = HistoryRows(arguments.user_column, arguments.history_column, arguments.target_column, arguments.separator)
    code = _save(arguments, lambda on_bad_row: import_questions(arguments.rows, rows, arguments.event_type, on_bad_row))
    say("times are made up: these files are for `train` and `evaluate`, not for a topic")
    return code


def _table(arguments: argparse.Namespace) -> int:
    from worker.data.importers.rows import EVENT_FIELDS, ITEM_FIELDS, EventRows, ItemRows
    from worker.data.importers.tables import import_tables
    from worker.data.importers.values import TIME_UNITS

    if not arguments.items and not arguments.events:
        raise ConfigError(f"import {arguments.form}: give --items, --events or both")
    unit_ms = TIME_UNITS[arguments.time_unit]
    if arguments.mapping is not None:
        return _mapped_table(arguments)
    item_rows = ItemRows(
        _columns("--item-column", arguments.item_column, ITEM_FIELDS),
        pairs("--vectors", arguments.vectors),
        pairs("--text", arguments.text),
        pairs("--encoder", arguments.encoder),
        arguments.dtype,
        unit_ms,
    )
    event_rows = EventRows(
        _columns("--event-column", arguments.event_column, EVENT_FIELDS), arguments.event_type, unit_ms
    )
    return _save(
        arguments,
        lambda on_bad_row: import_tables(
            arguments.form, arguments.items, arguments.events, item_rows, event_rows, on_bad_row
        ),
    )


def _mapped_table(arguments: argparse.Namespace) -> int:
    from worker.data.importers.rows import MappedRows
    from worker.data.importers.tables import import_tables
    from worker.mapping import read_mapping

    for name in ("vectors", "text", "encoder", "item_column", "event_column", "event_type"):
        if getattr(arguments, name):
            raise ConfigError(f"--{name.replace('_', '-')} and --mapping: give one of them; the mapping says it all")
    rows = MappedRows(read_mapping(arguments.mapping))
    if arguments.items:
        rows.file.for_items("--mapping")
    if arguments.events:
        rows.file.for_events("--mapping")
    return _save(
        arguments,
        lambda on_bad_row: import_tables(arguments.form, arguments.items, arguments.events, rows, rows, on_bad_row),
    )


def _columns(flag: str, texts: list[str], fields: tuple[str, ...]) -> dict[str, str]:
    columns = pairs(flag, texts)
    for name in columns:
        if name not in fields:
            raise ConfigError(f"{flag}: there is no field {name!r}; there are {', '.join(fields)}")
    return columns


def _synthetic(arguments: argparse.Namespace) -> int:
    from worker.data.importers.synthetic import Plan

    plan = Plan(
        num_items=arguments.items,
        num_users=arguments.users,
        num_events=arguments.events,
        days=arguments.days,
        drift_days=arguments.drift_days,
        cold_share=arguments.cold_share,
        missing_share=arguments.missing_share,
        clutter_share=arguments.clutter_share,
        max_vectors=sizes("--max-vectors", arguments.max_vectors),
        seed=arguments.seed,
    )
    return _save(arguments, lambda _: plan.imported())


def _save(arguments: argparse.Namespace, find: Callable[[Callable[[DataError], None]], Imported]) -> int:
    from worker.data.importers import NothingImportedError, save

    num_bad = 0

    def on_bad_row(error: DataError) -> None:
        nonlocal num_bad
        if not arguments.skip_bad_rows:
            raise error
        num_bad += 1
        if num_bad <= MAX_BAD_ROWS_SHOWN:
            say(f"left out: {error}")

    try:
        summary = save(find(on_bad_row), arguments.out, arguments.compress)
    except NothingImportedError:
        check_refused("rows", {"bad rows": num_bad}, num_bad, arguments.max_refused)
        raise
    summary.num_bad_rows = num_bad
    if arguments.json:
        print_json(summary.as_dict())
    else:
        print_text(str(summary))
    num_rows = num_bad + summary.num_items + summary.num_events
    check_refused("rows", {"bad rows": num_bad}, num_rows, arguments.max_refused)
    return 0
