"""Answers for people: a table for each question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from worker.printable import printable
from worker.recommend.answers import Answer
from worker.recommend.published import LeftOut, PublishedItems

MAX_TITLE = 60


def as_text(
    answers: Sequence[Answer], items: PublishedItems, titles: Mapping[str, str], shown: Sequence[str] = ()
) -> str:
    """`shown`: attributes that stand behind each item, where they are known."""
    return "\n\n".join("\n".join(_lines(answer, items, titles, shown)) for answer in answers)


def _lines(answer: Answer, items: PublishedItems, titles: Mapping[str, str], attributes: Sequence[str]) -> list[str]:
    question = answer.question
    told = dict(question.told)
    head = f"{question.kind} {question.subject}"
    if question.kind == "like" and (title := titles.get(question.subject)):
        head += f" ({title})"
    if "by" in told:
        head += f", by {told['by']}"
    if "num_events" in told:
        head += f": {told['num_events']} events, the newest {told['newest_event']}"
    if "num_seen" in told:
        head += f"; {told['num_seen']} items seen, left out"
    lines = [head]
    lines += [
        f"  {event['at']}  {event['event_type']}  {_named(event['item_id'], titles)}"
        for event in told.get("latest", ())
    ]
    rows = [(items.item_ids[hit.item], hit) for hit in answer.hits]
    id_width = max((len(item_id) for item_id, _ in rows), default=0)
    shown = {item_id: _cut(titles.get(item_id, "")) for item_id, _ in rows}
    title_width = max(map(len, shown.values()), default=0)
    lines += [
        f"  {rank:>3}  {hit.score:>7.4f}  {item_id:<{id_width}}  "
        + (f"{shown[item_id]:<{title_width}}  " if title_width else "")
        + "+".join(items.modalities[hit.item])
        + _attributes(items, hit.item, attributes)
        for rank, (item_id, hit) in enumerate(rows, start=1)
    ]
    return [*lines, *([] if rows else ["  nothing is left to recommend"])]


def _attributes(items: PublishedItems, row: int, names: Sequence[str]) -> str:
    found = items.attributes[row] if items.attributes else {}
    return "".join(f"  {name}={_told(found[name])}" for name in dict.fromkeys(names) if name in found)


def _told(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.10g}"
    return printable(", ".join(value) if isinstance(value, list | tuple) else str(value))


def _cut(title: str) -> str:
    return title if len(title) <= MAX_TITLE else f"{title[: MAX_TITLE - 1].rstrip()}…"


def _named(item_id: str, titles: Mapping[str, str]) -> str:
    return f"{item_id}  {titles[item_id]}" if titles.get(item_id) else item_id


def left_out_lines(left_out: LeftOut) -> list[str]:
    """Lines about what was read and not used."""
    lines = [
        f"{count} vectors are of space {space_id} and were ignored"
        for space_id, count in left_out.other_spaces.most_common()
    ]
    if left_out.astray:
        lines.append(
            f"{left_out.astray} records are of items that lie in another partition, too: the greater revision counts; "
            f"producers of the items disagree about partitions (schemas/README.md, Partitions)"
        )
    if left_out.unreadable:
        lines.append(f"{left_out.unreadable} records could not be read; the first: {left_out.first_unreadable}")
    return lines
