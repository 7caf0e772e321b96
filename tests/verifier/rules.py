"""What must hold between the inputs of the items topic and what the workers wrote.

Pure: values in, a verdict out. The rules, by the names a verdict gives them:

- accounted: every input is published, superseded by a newer accepted one, or dead-lettered, each of these
  excluding the others, and every output comes from an input and has its attributes.
- final: the last output of a key is its newest accepted input: a vector of that revision, or a tombstone.
- order: no output of a key is older than one written before it. Equal ones are duplicates: they are counted, those of
  items with neighbours apart, because such an item is computed anew when a neighbour comes, changes or goes.
- partition: an output lies in the partition with the same number as its input's.
- vector: every vector decodes, has unit length, and the space and the dimensions of all others.
- dead_letter: a dead letter holds the very key, value and timestamp of its input, and what cannot be read has one.
- counters: consumed = published + superseded + dead-lettered + abandoned + in flight, per worker and topic.

Newer is: after a delete of the item; else with a higher revision; else with the same one, later in the log. What
was dead-lettered was never accepted, so it supersedes nothing and ends no life. The items topic must be whole:
where the broker has dropped its beginning the verdict is undecided. The item-vectors topic may be compacted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from tests.verifier.values import Input, Kind, Letter, Output, Position, Rank, ranked
from tests.verifier.verdict import Findings, Rule, Verdict

Key = tuple[int, bytes | None]
"""Partition and record key: what order is kept within."""
Accounts = Mapping[str, Mapping[str, float]]
"""A worker's counters, by topic and by the names of `OUTCOMES` and `consumed`."""
T = TypeVar("T", Input, Output)

OUTCOMES = ("published", "superseded", "dead_lettered", "abandoned", "in_flight")


def verify(
    inputs: Collection[Input],
    outputs: Collection[Output],
    letters: Collection[Letter],
    *,
    items_topic: str,
    counters: Sequence[Accounts] = (),
    space_id: str | None = None,
    log_starts: Mapping[int, int] | None = None,
) -> Verdict:
    """Judge whole logs. Each collection is in offset order within a partition.

    `counters` has an entry for every live worker. `space_id` is the one all vectors must have; without it they
    must agree. `log_starts` says where the partitions of the items topic begin.
    """
    findings, starts = Findings(), log_starts or {}
    findings.counts.update(inputs=len(inputs), outputs=len(outputs), workers=len(counters))
    dead = _check_letters(findings, letters, inputs, items_topic, starts)
    inputs_by_key, outputs_by_key = _by_key(inputs), _by_key(outputs)
    for key, group in inputs_by_key.items():
        _check_key(findings, group, outputs_by_key.pop(key, []), dead, starts)
    _check_strays(findings, outputs_by_key, inputs_by_key, starts)
    _check_vectors(findings, outputs, space_id)
    for worker, accounts in enumerate(counters):
        for text in unbalanced(accounts, items_topic):
            findings.report(Rule.COUNTERS, f"worker {worker}: {text}")
    return findings.verdict([*_undecided(inputs, starts)])


def _check_letters(
    findings: Findings,
    letters: Iterable[Letter],
    inputs: Iterable[Input],
    items_topic: str,
    starts: Mapping[int, int],
) -> Collection[Position]:
    """Check dead letters against their inputs; returns the positions of inputs that have one."""
    found: dict[Position, Letter] = {}
    for letter in letters:
        findings.counts["dead_letters"] += 1
        if letter.problem:
            findings.report(Rule.DEAD_LETTER, f"{letter}: {letter.problem}")
        elif letter.topic == items_topic:
            findings.counts["duplicate_dead_letters"] += letter.source in found
            found[letter.source] = letter
    unmatched = dict(found)
    for input_ in inputs:
        if input_.position in unmatched:
            letter = unmatched.pop(input_.position)
            findings.reasons[letter.reason] += 1
            for name in _altered(letter, input_):
                findings.report(Rule.DEAD_LETTER, f"{letter}: its {name} is not that of {input_}")
    for (partition, offset), letter in unmatched.items():
        if offset >= starts.get(partition, 0):
            text = f"{letter}: keeps input {partition}/{offset}, which does not exist"
            findings.report(Rule.DEAD_LETTER, text)
    return found.keys()


def _altered(letter: Letter, input_: Input) -> list[str]:
    pairs = {
        "key": (letter.key, input_.key),
        "value": (letter.digest, input_.digest),
        "timestamp": (letter.timestamp, input_.timestamp),
    }
    return [name for name, (kept, original) in pairs.items() if kept != original]


def _check_key(
    findings: Findings,
    inputs: Sequence[Input],
    outputs: Sequence[Output],
    dead: Collection[Position],
    starts: Mapping[int, int],
) -> None:
    """Apply the rules to everything about one key in one partition."""
    living = [input_ for input_ in inputs if input_.position not in dead]
    findings.counts["keys"] += 1
    findings.counts["dead_lettered"] += len(inputs) - len(living)
    for input_ in living:
        if input_.kind is Kind.UNREADABLE:
            findings.report(Rule.DEAD_LETTER, f"{input_}: has no dead letter")
    accepted = list(ranked(input_ for input_ in living if input_.kind is not Kind.UNREADABLE))
    ranks = {input_.offset: (rank, input_) for rank, input_ in accepted}
    newest = max(accepted, default=None)
    outputs = _drop_unmatched(findings, outputs, ranks, dead, starts)
    _check_order(findings, outputs, ranks)
    published = {output.source_offset for output in outputs}
    for rank, input_ in accepted:
        if input_.offset in published:
            findings.counts["published"] += 1
        elif newest is not None and rank < newest[0]:
            findings.counts["superseded"] += 1
        else:
            findings.report(Rule.ACCOUNTED, f"{input_}: neither published, superseded nor dead-lettered")
    if newest is not None:
        _check_end(findings, outputs, newest[1])


def _drop_unmatched(
    findings: Findings,
    outputs: Iterable[Output],
    ranks: Mapping[int, tuple[Rank, Input]],
    dead: Collection[Position],
    starts: Mapping[int, int],
) -> list[Output]:
    """The outputs that are what became of an accepted input; the others are reported."""
    matched = []
    for output in outputs:
        source = output.source_offset
        if output.problem and source is None:
            continue  # reported with the vectors
        if source is None:
            findings.report(Rule.ORDER, f"{output}: has no source offset to order it by")
        elif source < starts.get(output.partition, 0):
            findings.counts["expired"] += 1
        elif (output.partition, source) in dead:
            findings.report(Rule.ACCOUNTED, f"{output}: its input {source} is dead-lettered too")
        elif source not in ranks:
            findings.report(Rule.ACCOUNTED, f"{output}: the key has no readable input {source}")
        elif (output.kind, output.revision) != (ranks[source][1].kind, ranks[source][1].revision):
            findings.report(Rule.ACCOUNTED, f"{output}: is not what {ranks[source][1]} asks for")
        elif not output.problem and output.attributes != ranks[source][1].attributes:
            findings.report(Rule.ACCOUNTED, f"{output}: has other attributes than {ranks[source][1]}")
        else:
            matched.append(output)
    return matched


def _check_order(findings: Findings, outputs: Iterable[Output], ranks: Mapping[int, tuple[Rank, Input]]) -> None:
    seen: dict[int, bytes] = {}
    is_recomputed = any(input_.has_neighbors for _, input_ in ranks.values())
    highest = Rank(-1, -1, -1)
    for output in outputs:
        rank, input_ = ranks[output.source_offset or 0]
        if rank < highest or rank.offset < highest.offset:
            text = f"{output}: comes from input {rank.offset}, after the newer output from input {highest.offset}"
            findings.report(Rule.ORDER, text)
        else:
            highest = rank
        if input_.offset in seen:
            findings.counts["computed_anew" if is_recomputed else "duplicates"] += 1
            findings.counts["duplicates_differing"] += not is_recomputed and seen[input_.offset] != output.digest
        else:
            seen[input_.offset] = output.digest
            findings.latencies_ms.append(output.timestamp - input_.timestamp)


def _check_end(findings: Findings, outputs: Sequence[Output], newest: Input) -> None:
    """What a reader of the whole output topic, or of a compacted one, is left with."""
    if not outputs:
        findings.report(Rule.FINAL, f"{newest}: is the newest of its key, which ends without an output")
    elif outputs[-1].source_offset != newest.offset:
        last = outputs[-1]
        text = f"{last}: is the last of its key, from input {last.source_offset}; the newest is {newest}"
        findings.report(Rule.FINAL, text)


def _check_strays(
    findings: Findings,
    outputs_by_key: Mapping[Key, Iterable[Output]],
    inputs_by_key: Iterable[Key],
    starts: Mapping[int, int],
) -> None:
    """Outputs whose key has no input in their partition."""
    homes = {key: partition for partition, key in inputs_by_key} if outputs_by_key else {}
    for (partition, key), outputs in outputs_by_key.items():
        for output in outputs:
            if key in homes:
                findings.report(Rule.PARTITION, f"{output}: the inputs of this key are in partition {homes[key]}")
            elif output.source_offset is not None and output.source_offset < starts.get(partition, 0):
                findings.counts["expired"] += 1
            else:
                findings.report(Rule.ACCOUNTED, f"{output}: no input has this key")


def _check_vectors(findings: Findings, outputs: Iterable[Output], space_id: str | None) -> None:
    dims: int | None = None
    for output in outputs:
        if output.problem:
            findings.report(Rule.VECTOR, f"{output}: {output.problem}")
        elif output.kind is Kind.DELETE:
            findings.counts["tombstones"] += 1
        else:
            space_id = output.space_id if space_id is None else space_id
            dims = output.dims if dims is None else dims
            if output.space_id != space_id:
                findings.report(Rule.VECTOR, f"{output}: is of space {output.space_id}, expected {space_id}")
            if output.dims != dims:
                findings.report(Rule.VECTOR, f"{output}: has {output.dims} dimensions, others have {dims}")


def unbalanced(accounts_by_topic: Accounts, items_topic: str) -> Iterator[str]:
    """Where a worker's counters do not add up, in words; `items_topic` must be among them."""
    if items_topic not in accounts_by_topic:
        yield f"exports no account of topic {items_topic}"
    for topic, accounts in accounts_by_topic.items():
        if missing := [name for name in ("consumed", *OUTCOMES) if name not in accounts]:
            yield f"{topic}: exports no {', '.join(missing)}"
        elif accounts["consumed"] != (total := sum(accounts[name] for name in OUTCOMES)):
            terms = " + ".join(f"{accounts[name]:.0f} {name}" for name in OUTCOMES)
            yield f"{topic}: {accounts['consumed']:.0f} consumed, but {terms} = {total:.0f}"


def _undecided(inputs: Collection[Input], starts: Mapping[int, int]) -> Iterator[str]:
    if not inputs:
        yield "there are no inputs"
    for partition, start in sorted(starts.items()):
        if start > 0:
            yield f"items partition {partition} begins at offset {start}: the broker dropped what was before"


def _by_key(records: Iterable[T]) -> dict[Key, list[T]]:
    groups: dict[Key, list[T]] = defaultdict(list)
    for record in records:
        groups[record.partition, record.key].append(record)
    return groups
