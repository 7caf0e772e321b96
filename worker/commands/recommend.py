"""`align-worker recommend`: its flags, and how questions are answered and shown."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.commands.arguments import (
    add_command,
    add_settings,
    connected,
    positive,
    print_json,
    print_text,
    say,
    settings_from,
)
from worker.errors import ConfigError, TopicError
from worker.settings import Settings
from worker.sink.kinds import SEARCHABLE

if TYPE_CHECKING:
    from worker.align import Space
    from worker.recommend.answers import Question
    from worker.recommend.published import Activity, LeftOut, PublishedItems
    from worker.recommend.sources import Files, Source


def add_recommend(commands: Any) -> None:
    """The command and its flags."""
    asking = add_command(
        commands,
        "recommend",
        _recommend,
        "ask published vectors: items for a user, or like an item",
        example="--user u-17 --user u-18 --count 20",
    )
    _add_flags(asking)
    add_settings(asking)


def _add_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags for questions and for the source of vectors."""
    asked = command.add_argument_group("questions, each repeatable")
    asked.add_argument("--user", action="append", default=[], metavar="ID", help="items for a user")
    asked.add_argument("--like", action="append", default=[], metavar="ITEM", help="items like an item")
    asked.add_argument(
        "--text",
        action="append",
        default=[],
        metavar="WORDS",
        help="items for words; needs space.path, encode.encoders",
    )
    asked.add_argument(
        "--file",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="items for an image, audio, video, text, or a file with one item; needs space.path",
    )
    how = command.add_argument_group("how they are answered")
    how.add_argument("--by", metavar="MODALITY", help="compare this modality of the query alone (default: as --among)")
    how.add_argument(
        "--among",
        metavar="MODALITY",
        help="with this modality of the items alone (default: for --text, text, where the vectors of modalities are "
        "published; for --like, as --by)",
    )
    how.add_argument(
        "--prefix", type=positive, metavar="N", help="with --like: only items whose first N codes are those of the item"
    )
    how.add_argument("--lacking", metavar="MODALITY", help="only items that this modality took no part in")
    how.add_argument("--count", type=positive, default=10, metavar="N", help="items per answer (default: %(default)s)")
    how.add_argument(
        "--score",
        choices=["cosine", "cosine+prior"],
        help="with or without the items' prior (default: with it for a user, without it otherwise)",
    )
    how.add_argument("--with-seen", action="store_true", help="recommend a user what the events say was seen, too")
    how.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="with --index, only items whose attributes are so: 'price < 40', 'category = kitchen'; repeatable",
    )
    how.add_argument("--titles", type=Path, metavar="FILE", help="CSV file with item_id and title")
    how.add_argument("--json", action="store_true", help="print the answers as JSON")
    where = command.add_argument_group("where the vectors are (default: the topics)")
    where.add_argument(
        "--index",
        choices=SEARCHABLE,
        metavar="KIND",
        help=f"in the index that `align-worker sink` fills (sink.*): {', '.join(SEARCHABLE)}",
    )
    for name, what in (("item-vectors", "ItemVector"), ("user-vectors", "UserVector"), ("events", "UserEvent")):
        where.add_argument(
            f"--{name}",
            action="append",
            type=Path,
            default=[],
            metavar="FILE",
            help=f"file of {what} messages; repeatable",
        )
    where.add_argument(
        "--save", type=Path, metavar="DIR", help="read the topics into files there, for these three flags; then answer"
    )


def _recommend(arguments: argparse.Namespace) -> int:
    """Answer what is asked. Raises `ConfigError` for a user, item or modality that is not there."""
    settings = settings_from(arguments)
    _require_sense(arguments)
    from worker.align import Space
    from worker.align.device import resolve_device
    from worker.data.lists import read_titles
    from worker.recommend.answers import Search, answer
    from worker.recommend.published import collect_items
    from worker.recommend.table import as_text, left_out_lines

    titles = {} if arguments.titles is None else read_titles(arguments.titles)
    if arguments.index is not None:
        return _from_index(arguments, settings, titles)
    settings = settings if arguments.item_vectors else _as_read(settings)
    space = None if settings.space.path is None else Space.load(settings.space.path)
    source = _source(arguments, settings)
    if not _is_asked(arguments):
        return 0
    if arguments.like:  # the vectors of single modalities compare with one another, not with those of whole items
        arguments.among = arguments.among or arguments.by
    items = collect_items(
        source.item_vectors(),
        None if space is None else space.space_id,
        {name for name in (arguments.by, arguments.among) if name is not None} or _to_compare_with(arguments, space),
        resolve_device(settings.device),
    )
    if found := [name for name in _to_compare_with(arguments, space) if items.has(name).any()]:
        arguments.among = found[0]
        say(f"compared with the {found[0]} of the items alone; --among names another modality")
    asked = _questions(arguments, settings, source, items, space)
    how = Search(arguments.count, arguments.among, arguments.lacking, arguments.score)
    answers = answer(asked, items, how)
    if (arguments.text or arguments.file) and how.among is None and any(len(names) > 1 for names in items.modalities):
        say(
            "a query of one modality is nearest to items that have no other; --among compares that modality alone "
            "(--among text), where the worker publishes it (publish.modality_vectors)"
        )
    for line in left_out_lines(items.left_out):
        say(line)
    if arguments.json:
        print_json(
            {
                "space_id": items.space_id,
                "num_items": len(items.item_ids),
                "other_spaces": dict(items.left_out.other_spaces),
                "num_unreadable": items.left_out.unreadable,
                "answers": [each.as_dict(items, titles) for each in answers],
            }
        )
    else:
        print_text(as_text(answers, items, titles))
    return 0


def _to_compare_with(arguments: argparse.Namespace, space: Space | None) -> tuple[str, ...]:
    """Modalities whose own vectors words are looked for among, the best first, where nobody says which and nothing else
    is asked: words are nearer to them than to whole items, if they are published."""
    others = arguments.like or arguments.user or arguments.file
    if space is None or not arguments.text or others or arguments.by or arguments.among:
        return ()
    return tuple(sorted(space.spec.modalities, key=lambda name: name != "text"))


def _from_index(arguments: argparse.Namespace, settings: Settings, titles: Mapping[str, str]) -> int:
    """The same, of an index. Topics are read for what it does not hold: what users have seen, and users without a
    vector in it."""
    from worker.align import Space
    from worker.recommend import index as asking
    from worker.recommend.answers import Search
    from worker.recommend.conditions import condition
    from worker.recommend.published import LeftOut, collect_users
    from worker.recommend.table import as_text, left_out_lines
    from worker.sink.searching import open_index

    where = [condition(text) for text in arguments.where]
    space = None if settings.space.path is None else Space.load(settings.space.path)
    left_out = LeftOut()
    index = open_index(arguments.index, settings.sink, None if space is None else space.space_id)
    try:
        asked: list[asking.Asked] = []
        if arguments.user:
            wanted = set(arguments.user)
            source = None if index.has_users and arguments.with_seen else _source(arguments, _as_read(settings))
            if index.has_users:
                users = {user_id: found for user_id in wanted if (found := index.user(user_id)) is not None}
            else:
                assert source is not None
                users = collect_users(source.user_vectors(wanted), index.space_id, index.dim, left_out)
            activity = None if arguments.with_seen or source is None else _activity(source, wanted, left_out)
            asked += [asking.of_user(each, users.get(each), activity, index.space_id) for each in arguments.user]
        asked += [asking.like_item(item_id, index) for item_id in arguments.like]
        asked += [asking.Asked(question) for question in _encoded(arguments, settings, space)]
        answers, items = asking.answer(asked, index, Search(arguments.count, score=arguments.score), where)
    finally:
        index.close()
    for line in left_out_lines(left_out):
        say(line)
    if arguments.json:
        print_json({"space_id": items.space_id, "answers": [each.as_dict(items, titles) for each in answers]})
    else:
        print_text(as_text(answers, items, titles, [each.name for each in where]))
    return 0


def _is_asked(arguments: argparse.Namespace) -> bool:
    return bool(arguments.user or arguments.like or arguments.text or arguments.file)


def _require_sense(arguments: argparse.Namespace) -> None:
    from_files = bool(arguments.item_vectors or arguments.user_vectors or arguments.events)
    if arguments.where and arguments.index is None:
        raise ConfigError("--where asks for attributes, which an index holds: name it with --index")
    if arguments.index is not None:
        others = ("item_vectors", "user_vectors", "events", "save", "by", "among", "lacking", "prefix")
        if given := [f"--{name.replace('_', '-')}" for name in others if getattr(arguments, name)]:
            raise ConfigError(f"--index {arguments.index} does not go together with {', '.join(given)}: leave them out")
    if not _is_asked(arguments) and arguments.save is None:
        raise ConfigError("nothing is asked: give --user, --like, --text or --file (or --save, to read the topics)")
    if arguments.save is not None and from_files:
        raise ConfigError("--save reads topics: leave out --item-vectors, --user-vectors and --events")
    if from_files and not arguments.item_vectors:
        raise ConfigError("--item-vectors is missing: with files, nothing is read from topics")
    if from_files and arguments.user and not arguments.user_vectors:
        raise ConfigError("--user needs --user-vectors beside --item-vectors: with files, nothing is read from topics")
    if arguments.prefix is not None and not arguments.like:
        raise ConfigError("--prefix is for --like: the codes are those of its item")
    if arguments.user and (arguments.by is not None or arguments.among is not None):
        raise ConfigError(
            "--by and --among are for --like, --text and --file: a user is made of whole items, whose vectors lie "
            "elsewhere than those of single modalities"
        )


def _as_read(settings: Settings) -> Settings:
    """With the topics, and the space, that readers are to read while one space follows another."""
    from worker.rollout.control import settings_of, standing_if_allowed

    plan = standing_if_allowed(connected(settings), settings).plan
    if plan is None:
        return settings
    from worker.align import Space

    path, followed = settings.space.path, settings_of(settings, plan.readers)
    if path is not None and Space.load(path).space_id != plan.readers.space_id:
        return followed
    return settings.model_copy(update={"topics": followed.topics})


def _source(arguments: argparse.Namespace, settings: Settings) -> Source:
    from worker.mapping.inputs import foreign_events
    from worker.recommend.sources import Files, Topics

    if arguments.item_vectors:
        return Files(arguments.item_vectors, arguments.user_vectors, arguments.events)
    foreign = foreign_events(settings.input)
    topics = Topics(connected(settings), settings.topics, foreign)
    if arguments.save is None:
        return topics
    files: Files = topics.save(arguments.save)
    say(f"saved: {', '.join(map(str, (*files.item_files, *files.user_files, *files.event_files)))}")
    return files


def _questions(
    arguments: argparse.Namespace, settings: Settings, source: Source, items: PublishedItems, space: Space | None
) -> list[Question]:
    from worker.recommend.answers import like_item, of_user
    from worker.recommend.published import collect_users

    asked: list[Question] = []
    if arguments.user:
        wanted = set(arguments.user)
        dim = items.vectors_ID.shape[1]
        users = collect_users(source.user_vectors(wanted), items.space_id, dim, items.left_out)
        activity = None if arguments.with_seen else _activity(source, wanted, items.left_out)
        asked += [of_user(user_id, users, activity, items) for user_id in arguments.user]
    by = arguments.by or arguments.among
    asked += [like_item(item_id, items, by, arguments.prefix) for item_id in arguments.like]
    return asked + _encoded(arguments, settings, space)


def _encoded(arguments: argparse.Namespace, settings: Settings, space: Space | None) -> list[Question]:
    """Questions by words and by files."""
    if not arguments.text and not arguments.file:
        return []
    if space is None:
        raise ConfigError("space.path is not set: --text and --file need the space that the vectors are of")
    from worker.recommend.answers import Question
    from worker.recommend.query import Encoder

    encoder = Encoder(space, settings)
    told = {} if arguments.by is None else {"by": arguments.by}
    by_words = [
        Question("text", text, encoder.words(text, arguments.by, arguments.among), told=told) for text in arguments.text
    ]
    by_files = [
        Question("file", str(path), encoder.file(path, arguments.by, arguments.among), told=told)
        for path in arguments.file
    ]
    return by_words + by_files


def _activity(source: Source, users: set[str], left_out: LeftOut) -> dict[str, Activity] | None:
    """None where no events are to be had: then nothing is known to have been seen."""
    from worker.recommend.published import collect_activity
    from worker.recommend.sources import Files

    if isinstance(source, Files) and not source.event_files:
        say("without --events it is not known what users have seen")
        return None
    try:
        return collect_activity(source.events(users), left_out)
    except TopicError as error:
        raise TopicError(f"{error}; --with-seen does without events") from error
