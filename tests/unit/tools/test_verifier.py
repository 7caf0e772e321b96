"""The verifier passes a run in which nothing went wrong, and turns red for every single thing that can."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import DeadLetter, Feature, ItemVector, NewItem, Reason, Tensor, encode
from tests.verifier import Input, Kind, Letter, Output, Rule, Verdict, verify
from tests.verifier.__main__ import table
from tests.verifier.reading import parse_counters, read_input, read_letter, read_output

SPACE = "space-1"
BALANCED = {"consumed": 12, "published": 7, "superseded": 2, "dead_lettered": 2, "abandoned": 1, "in_flight": 0}


@dataclass
class Run:
    """Logs to judge, which tests spoil in one place."""

    inputs: list[Input]
    outputs: list[Output]
    letters: list[Letter]
    counters: list[dict[str, dict[str, float]]]
    space_id: str | None = SPACE
    log_starts: dict[int, int] | None = None

    def verdict(self) -> Verdict:
        return verify(
            self.inputs,
            self.outputs,
            self.letters,
            items_topic="items",
            counters=self.counters,
            space_id=self.space_id,
            log_starts=self.log_starts,
        )

    def output(self, position: tuple[int, int], **changes: Any) -> None:
        """Change the output at this partition and offset."""
        index = next(i for i, each in enumerate(self.outputs) if (each.partition, each.offset) == position)
        self.outputs[index] = self.outputs[index]._replace(**changes)

    def drop(self, position: tuple[int, int]) -> None:
        """The output at this partition and offset was never written."""
        self.outputs = [each for each in self.outputs if (each.partition, each.offset) != position]

    def letter(self, index: int, **changes: Any) -> None:
        self.letters[index] = self.letters[index]._replace(**changes)


def item(offset: int, key: bytes, revision: int, partition: int = 0) -> Input:
    return Input(partition, offset, 1_000 + offset, key, Kind.UPSERT, revision, b"v%d" % offset)


def deletion(offset: int, key: bytes, partition: int = 0) -> Input:
    return Input(partition, offset, 1_000 + offset, key, Kind.DELETE)


def vector(offset: int, source: Input) -> Output:
    digest = b"%d" % source.offset
    where = (source.partition, offset, source.timestamp + 20, source.key)
    return Output(*where, Kind.UPSERT, source.offset, source.revision, SPACE, 8, digest)


def tombstone(offset: int, source: Input) -> Output:
    where = (source.partition, offset, source.timestamp + 20, source.key)
    return Output(*where, Kind.DELETE, source.offset)


def letter(offset: int, source: Input, reason: str = "invalid_field") -> Letter:
    place = (source.partition, source.offset)
    return Letter(0, offset, "items", place, source.timestamp, source.key, source.digest, reason)


def good_run() -> Run:
    """A key superseded within a batch, a stale input, a replay, a second life, dead letters, and a delete."""
    a1, a3, a2, a3_again = item(0, b"a", 1), item(1, b"a", 3), item(2, b"a", 2), item(3, b"a", 3)
    b9, b_gone, b1 = item(4, b"b", 9), deletion(5, b"b"), item(6, b"b", 1)
    broken = Input(0, 7, 1_007, b"c", Kind.UNREADABLE, 0, b"?")
    d1, d2_refused, d_gone = item(0, b"d", 1, partition=1), item(1, b"d", 2, 1), deletion(2, b"d", 1)
    outputs = [
        vector(0, a3),  # a1 was in the same batch; a2 is stale when it comes
        vector(1, a3_again),
        vector(2, b9),
        tombstone(3, b_gone),
        vector(4, b1),  # revision 1 after 9, in another life
        vector(5, a3_again),  # computed again after a crash, as is the next
        vector(6, b1),
        vector(0, d1),
        tombstone(1, d_gone),
    ]
    return Run(
        inputs=[a1, a3, a2, a3_again, b9, b_gone, b1, broken, d1, d2_refused, d_gone],
        outputs=outputs,
        letters=[letter(0, broken), letter(1, d2_refused, "model_failure")],
        counters=[{"items": dict(BALANCED)}],
    )


def test_a_good_run_is_green() -> None:
    verdict = good_run().verdict()
    assert verdict.ok, verdict.explain()
    assert verdict.counts == {
        "inputs": 11,
        "keys": 4,
        "published": 7,
        "superseded": 2,
        "dead_lettered": 2,
        "outputs": 9,
        "tombstones": 2,
        "dead_letters": 2,
        "duplicates": 2,
        "duplicates_differing": 0,
        "duplicate_dead_letters": 0,
        "expired": 0,
        "workers": 1,
    }
    assert verdict.dead_letters_by_reason == {"invalid_field": 1, "model_failure": 1}
    assert verdict.latency_ms == {"p50": 20, "p99": 20, "max": 20}
    assert "all rules hold" in table(verdict)
    assert json.loads(json.dumps(asdict(verdict)))["counts"]["inputs"] == 11


def lose_the_newest(run: Run) -> None:
    run.drop((0, 1))
    run.drop((0, 5))


def lose_a_tombstone(run: Run) -> None:
    run.drop((1, 1))


def publish_a_stale_revision(run: Run) -> None:
    run.outputs.append(vector(7, run.inputs[2]))


def publish_against_the_log(run: Run) -> None:
    """The stale revision first, then the newer one from before it."""
    run.outputs.insert(0, vector(-1, run.inputs[2]))


def publish_the_previous_life(run: Run) -> None:
    run.outputs.append(vector(7, run.inputs[4]))


def replay_an_overtaken_input(run: Run) -> None:
    run.outputs.insert(5, vector(5, run.inputs[1]))


def bring_a_deleted_item_back(run: Run) -> None:
    run.outputs.append(vector(2, run.inputs[8]))


def publish_what_was_never_sent(run: Run) -> None:
    run.output((0, 5), source_offset=99)


def publish_an_unknown_key(run: Run) -> None:
    run.outputs.append(vector(7, item(6, b"unknown", 1)))


def publish_another_revision(run: Run) -> None:
    run.output((0, 5), revision=4)


def publish_other_attributes(run: Run) -> None:
    run.output((0, 5), attributes={"price": 4})


def publish_a_vector_for_a_delete(run: Run) -> None:
    run.output((1, 1), kind=Kind.UPSERT, space_id=SPACE, dims=8)


def publish_a_tombstone_for_an_upsert(run: Run) -> None:
    run.output((0, 5), kind=Kind.DELETE, revision=0)


def publish_to_another_partition(run: Run) -> None:
    run.outputs.append(run.outputs[7]._replace(partition=0, offset=7))


def move_to_another_partition(run: Run) -> None:
    run.output((1, 1), partition=0, offset=7)


def forget_the_source_offset(run: Run) -> None:
    run.output((0, 5), source_offset=None)


def publish_and_dead_letter(run: Run) -> None:
    run.letters.append(letter(2, run.inputs[6]))


def supersede_by_a_dead_letter(run: Run) -> None:
    """Revision 2 could not be processed, and revision 1 was dropped in its favour."""
    run.inputs = [each for each in run.inputs if (each.partition, each.offset) != (1, 2)]
    run.drop((1, 0))
    run.drop((1, 1))


def publish_from_a_dead_letter(run: Run) -> None:
    run.outputs.insert(8, vector(1, run.inputs[9]))


def lose_what_cannot_be_read(run: Run) -> None:
    run.letters.pop(0)


def publish_what_cannot_be_read(run: Run) -> None:
    run.letters.pop(0)
    run.outputs.append(vector(7, run.inputs[7])._replace(revision=0))


def drop_what_only_the_model_refused(run: Run) -> None:
    """Its input is the newest but for the delete after it, which is gone too."""
    run.letters.pop(1)
    run.inputs.pop()
    run.drop((1, 1))


def keep_another_value(run: Run) -> None:
    run.letter(0, digest=b"!")


def keep_another_key(run: Run) -> None:
    run.letter(0, key=b"C")


def keep_another_timestamp(run: Run) -> None:
    run.letter(0, timestamp=0)


def keep_what_was_never_sent(run: Run) -> None:
    run.letters.append(letter(2, item(50, b"a", 1)))


def write_a_broken_letter(run: Run) -> None:
    run.letters.append(letter(2, run.inputs[0])._replace(problem="does not decode"))


def write_a_broken_vector(run: Run) -> None:
    run.output((0, 5), problem="has length 2")


def write_an_undecodable_vector(run: Run) -> None:
    run.outputs.append(Output(0, 7, 2_000, b"a", Kind.UPSERT, None, problem="does not decode"))


def mix_spaces(run: Run) -> None:
    run.output((0, 5), space_id="space-2")


def mix_spaces_unasked(run: Run) -> None:
    run.space_id = None
    run.output((0, 5), space_id="space-2")


def use_another_space(run: Run) -> None:
    run.space_id = "space-2"


def mix_dimensions(run: Run) -> None:
    run.output((0, 5), dims=16)


def count_one_too_few(run: Run) -> None:
    run.counters[0]["items"]["published"] -= 1


def count_wrong_in_one_worker_of_two(run: Run) -> None:
    run.counters.append({"items": {**BALANCED, "in_flight": 3}})


def count_wrong_in_another_topic(run: Run) -> None:
    run.counters[0]["events"] = {**BALANCED, "consumed": 0}


def count_nothing(run: Run) -> None:
    run.counters = [{}]


def export_too_little(run: Run) -> None:
    del run.counters[0]["items"]["abandoned"]


MUTATIONS: list[tuple[Callable[[Run], None], set[Rule]]] = [
    (lose_the_newest, {Rule.ACCOUNTED, Rule.FINAL}),
    (lose_a_tombstone, {Rule.ACCOUNTED, Rule.FINAL}),
    (publish_a_stale_revision, {Rule.ORDER, Rule.FINAL}),
    (publish_against_the_log, {Rule.ORDER}),
    (publish_the_previous_life, {Rule.ORDER, Rule.FINAL}),
    (replay_an_overtaken_input, {Rule.ORDER}),
    (bring_a_deleted_item_back, {Rule.ORDER, Rule.FINAL}),
    (publish_what_was_never_sent, {Rule.ACCOUNTED}),
    (publish_an_unknown_key, {Rule.ACCOUNTED}),
    (publish_another_revision, {Rule.ACCOUNTED}),
    (publish_a_vector_for_a_delete, {Rule.ACCOUNTED, Rule.FINAL}),
    (publish_a_tombstone_for_an_upsert, {Rule.ACCOUNTED}),
    (publish_to_another_partition, {Rule.PARTITION}),
    (move_to_another_partition, {Rule.PARTITION, Rule.ACCOUNTED, Rule.FINAL}),
    (forget_the_source_offset, {Rule.ORDER}),
    (publish_and_dead_letter, {Rule.ACCOUNTED}),
    (supersede_by_a_dead_letter, {Rule.ACCOUNTED, Rule.FINAL}),
    (publish_from_a_dead_letter, {Rule.ACCOUNTED}),
    (lose_what_cannot_be_read, {Rule.DEAD_LETTER}),
    (publish_what_cannot_be_read, {Rule.DEAD_LETTER, Rule.ACCOUNTED}),
    (drop_what_only_the_model_refused, {Rule.ACCOUNTED, Rule.FINAL}),
    (keep_another_value, {Rule.DEAD_LETTER}),
    (keep_another_key, {Rule.DEAD_LETTER}),
    (keep_another_timestamp, {Rule.DEAD_LETTER}),
    (keep_what_was_never_sent, {Rule.DEAD_LETTER}),
    (write_a_broken_letter, {Rule.DEAD_LETTER}),
    (write_a_broken_vector, {Rule.VECTOR}),
    (write_an_undecodable_vector, {Rule.VECTOR}),
    (mix_spaces, {Rule.VECTOR}),
    (mix_spaces_unasked, {Rule.VECTOR}),
    (use_another_space, {Rule.VECTOR}),
    (mix_dimensions, {Rule.VECTOR}),
    (count_one_too_few, {Rule.COUNTERS}),
    (count_wrong_in_one_worker_of_two, {Rule.COUNTERS}),
    (count_wrong_in_another_topic, {Rule.COUNTERS}),
    (count_nothing, {Rule.COUNTERS}),
    (export_too_little, {Rule.COUNTERS}),
]


@pytest.mark.parametrize(("spoil", "rules"), MUTATIONS, ids=[spoil.__name__ for spoil, _ in MUTATIONS])
def test_a_spoilt_run_is_red(spoil: Callable[[Run], None], rules: set[Rule]) -> None:
    run = good_run()
    spoil(run)
    verdict = run.verdict()
    assert not verdict.ok
    assert set(verdict.breaches) == rules, verdict.explain()
    assert all(f"{rule}: " in verdict.explain() for rule in rules)


def test_an_input_may_be_overtaken_before_it_is_published() -> None:
    run = good_run()
    run.drop((0, 3))  # the delete of b, which has a new life already
    run.drop((0, 0))
    verdict = run.verdict()
    assert verdict.ok, verdict.explain()
    assert (verdict.counts["published"], verdict.counts["superseded"]) == (5, 4)


def test_a_key_that_only_ever_was_dead_lettered_has_no_output() -> None:
    run = good_run()
    assert run.verdict().ok
    run.outputs.append(tombstone(7, deletion(7, b"c")))
    assert set(run.verdict().breaches) == {Rule.ACCOUNTED}


def test_a_compacted_output_topic_is_judged_like_a_whole_one() -> None:
    run = good_run()
    for overwritten in ((0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 0)):
        run.drop(overwritten)
    assert {Rule.FINAL, Rule.ORDER}.isdisjoint(run.verdict().breaches)
    assert run.verdict().ok, run.verdict().explain()


def test_duplicates_are_counted_and_told_apart() -> None:
    run = good_run()
    run.output((0, 5), digest=b"other")
    run.letters.append(letter(2, run.inputs[7]))
    verdict = run.verdict()
    assert verdict.ok
    assert verdict.counts["duplicates"] == 2
    assert verdict.counts["duplicates_differing"] == 1
    assert verdict.counts["duplicate_dead_letters"] == 1


def test_an_item_with_neighbours_may_have_been_computed_anew() -> None:
    run = good_run()
    run.inputs = [each._replace(has_neighbors=each.kind is Kind.UPSERT) for each in run.inputs]
    verdict = run.verdict()
    assert verdict.ok
    assert (verdict.counts["duplicates"], verdict.counts["computed_anew"]) == (0, 2)


def test_dead_letters_of_other_topics_are_left_alone() -> None:
    run = good_run()
    run.letters.append(letter(2, item(99, b"user", 1))._replace(topic="events"))
    assert run.verdict().ok


def test_without_inputs_nothing_is_decided() -> None:
    verdict = Run([], [], [], []).verdict()
    assert not verdict.ok
    assert not verdict.breaches
    assert "no inputs" in verdict.explain()


def test_a_log_without_its_beginning_is_not_decided() -> None:
    run = good_run()
    run.log_starts = {0: 5, 1: 0}
    run.inputs = run.inputs[5:]
    run.letters.append(letter(2, item(4, b"b", 9)))
    verdict = run.verdict()
    assert not verdict.ok
    assert not verdict.breaches, verdict.explain()
    assert verdict.undecided == ("items partition 0 begins at offset 5: the broker dropped what was before",)
    assert verdict.counts["expired"] == 4  # three outputs of a, one of b


def test_what_the_log_still_has_is_judged_though_it_lacks_its_beginning() -> None:
    run = good_run()
    run.log_starts = {0: 5, 1: 0}
    run.inputs = run.inputs[5:]
    run.outputs.append(vector(7, item(5, b"unknown", 1)))
    run.letters.append(letter(2, item(8, b"unknown", 1)))
    assert set(run.verdict().breaches) == {Rule.ACCOUNTED, Rule.DEAD_LETTER}
    run.letters[-1] = letter(2, item(5, b"unknown", 1))  # the first offset that the log should have
    del run.inputs[0]
    assert run.verdict().breaches[Rule.DEAD_LETTER] == 1


def test_many_breaches_are_counted_but_not_all_told() -> None:
    inputs = [item(n, b"k%d" % n, 1) for n in range(100)]
    verdict = Run(inputs, [], [], []).verdict()
    assert verdict.breaches == {Rule.ACCOUNTED: 100, Rule.FINAL: 100}
    assert verdict.explain().count("\n") < 25
    assert "and 90 more" in table(verdict)


CHANGES = st.lists(st.tuples(st.sampled_from([b"a", b"b"]), st.integers(-1, 3)), min_size=1, max_size=12)
"""Revisions of two items as they arrive; -1 is a delete."""


def correct_outputs(inputs: list[Input], batches: list[int]) -> list[Output]:
    """What a worker writes that takes batches of these sizes and knows the newest input of each key."""
    newest: dict[bytes | None, tuple[int, int]] = {}
    outputs: list[Output] = []
    rest = list(inputs)
    for size in [*batches, len(inputs)]:
        batch, rest = rest[:size], rest[size:]
        accepted: dict[bytes | None, Input] = {}
        for each in batch:
            life, revision = newest.get(each.key, (0, -1))
            if each.kind is Kind.DELETE:
                newest[each.key] = life + 1, -1
            elif each.revision >= revision:
                newest[each.key] = life, each.revision
            else:
                continue
            accepted[each.key] = each
        for each in accepted.values():
            make = tombstone if each.kind is Kind.DELETE else vector
            outputs.append(make(len(outputs), each))
    return outputs


def as_inputs(changes: list[tuple[bytes, int]]) -> list[Input]:
    return [deletion(n, key) if revision < 0 else item(n, key, revision) for n, (key, revision) in enumerate(changes)]


@given(changes=CHANGES, batches=st.lists(st.integers(1, 4), max_size=6))
@settings(max_examples=200, deadline=None)
def test_whatever_a_correct_worker_writes_is_green(changes: list[tuple[bytes, int]], batches: list[int]) -> None:
    inputs = as_inputs(changes)
    verdict = Run(inputs, correct_outputs(inputs, batches), [], []).verdict()
    assert verdict.ok, verdict.explain()


@given(changes=CHANGES, batches=st.lists(st.integers(1, 4), max_size=6), data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_lost_last_output_is_always_red(
    changes: list[tuple[bytes, int]], batches: list[int], data: st.DataObject
) -> None:
    inputs = as_inputs(changes)
    outputs = correct_outputs(inputs, batches)
    last = {output.key: output for output in outputs}
    lost = data.draw(st.sampled_from(sorted(last.values())))
    verdict = Run(inputs, [output for output in outputs if output is not lost], [], []).verdict()
    assert set(verdict.breaches) == {Rule.ACCOUNTED, Rule.FINAL}


@given(changes=CHANGES, data=st.data())
@settings(max_examples=200, deadline=None)
def test_an_old_output_written_last_is_always_red(changes: list[tuple[bytes, int]], data: st.DataObject) -> None:
    inputs = as_inputs(changes)
    outputs = correct_outputs(inputs, [1] * len(inputs))
    last = {output.key: output for output in outputs}
    old = [output for output in outputs if output is not last[output.key]]
    if old:
        again = data.draw(st.sampled_from(old))._replace(offset=len(outputs))
        assert set(Run(inputs, [*outputs, again], [], []).verdict().breaches) == {Rule.ORDER, Rule.FINAL}


# From records


def record(key: bytes | None, value: bytes | None, headers: tuple[tuple[str, bytes], ...] = ()) -> Any:
    return SimpleNamespace(partition=2, offset=7, timestamp=99, key=key, value=value, headers=headers)


def item_bytes(**changes: Any) -> bytes:
    feature = Feature.from_numpy(np.ones(4), encoder="e")
    fields = {"item_id": "a", "revision": 5, "event_time_ms": 1, "features": {"text": feature}, **changes}
    return encode(NewItem(**fields))


DIMS = {"text": 4, "image": 6}


def test_an_item_is_read() -> None:
    value = item_bytes()
    got = read_input(record(b"a", value), DIMS)
    assert got[:6] == (2, 7, 99, b"a", Kind.UPSERT, 5)
    assert got.digest != read_input(record(b"a", item_bytes(revision=6)), DIMS).digest


def test_a_delete_is_read() -> None:
    assert read_input(record(b"a", None), DIMS) == Input(2, 7, 99, b"a", Kind.DELETE)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"a", b""),
        (b"a", b"\xc1"),
        (b"a", item_bytes()[:-1]),
        (b"a", item_bytes() + b"\x00"),
        (b"a", msgpack.packb([1, 2])),
        (b"a", msgpack.packb({"item_id": "a", "features": {}})),
        (b"a", msgpack.packb({"item_id": 1, "revision": 1, "features": {}})),
        (b"a", msgpack.packb({"item_id": "a", "revision": "1", "features": {}})),
        (b"a", msgpack.packb({"item_id": "a", "revision": 1, "features": {"text": {}}})),
        (b"b", item_bytes()),
        (None, item_bytes()),
        (b"a", item_bytes(partial=True)),
        (b"a", item_bytes(features={})),
        (b"a", item_bytes(features={"smell": Feature.from_numpy(np.ones(4), encoder="e")})),
        (b"a", item_bytes(features={"text": Feature.from_numpy(np.ones(5), encoder="e")})),
        (b"a", item_bytes(features={"text": Feature.from_numpy(np.ones((4, 6)), encoder="e")})),
        (b"", None),
        (None, None),
        (b"\xff", None),
        (b"x" * 513, None),
    ],
)
def test_an_input_that_no_worker_can_take_is_told_apart(key: bytes | None, value: bytes | None) -> None:
    got = read_input(record(key, value), DIMS)
    assert (got.kind, got.revision, got.key) == (Kind.UNREADABLE, 0, key)


def test_without_dimensions_every_size_is_taken() -> None:
    value = item_bytes(features={"smell": Feature.from_numpy(np.ones(5), encoder="e")})
    assert read_input(record(b"a", value), {}).kind is Kind.UPSERT


def vector_bytes(values: Any, dtype: Any = "f2", **changes: Any) -> bytes:
    fields = {
        "item_id": "a",
        "revision": 5,
        "event_time_ms": 1,
        "space_id": SPACE,
        "vector": Tensor.from_numpy(values, dtype),
        "modalities": ("text",),
        "produced_at_ms": 1,
        "source_offset": 3,
        **changes,
    }
    return encode(ItemVector(**fields))


def unit(seed: int, dims: int = 256) -> Any:
    values = np.random.default_rng(seed).normal(size=dims)
    return values / np.linalg.norm(values)


@pytest.mark.parametrize("dtype", ["f4", "f2", "bf2", "i1"])
@pytest.mark.parametrize("seed", range(5))
def test_unit_vectors_are_good_in_every_dtype(dtype: str, seed: int) -> None:
    got = read_output(record(b"a", vector_bytes(unit(seed), dtype)))
    assert got[:10] == (2, 7, 99, b"a", Kind.UPSERT, 3, 5, SPACE, 256, got.digest)
    assert not got.problem


@pytest.mark.parametrize("dtype", ["f4", "f2", "bf2"])
def test_a_vector_a_hundredth_too_long_is_bad(dtype: str) -> None:
    assert "length 1.0" in read_output(record(b"a", vector_bytes(unit(0) * 1.01, dtype))).problem


def test_a_vector_under_another_key_is_bad() -> None:
    assert "'a'" in read_output(record(b"b", vector_bytes(unit(0)))).problem


def test_an_element_that_is_not_finite_is_bad() -> None:
    good = vector_bytes(unit(0), modality_vectors={"text": Tensor.from_numpy(unit(1))})
    for seed, problem in ((0, "has length nan"), (1, "modality vector")):
        element = np.float16(unit(seed)[0]).tobytes()
        assert good.count(element) == 1
        bad = good.replace(element, np.float16("nan").tobytes())
        assert problem in read_output(record(b"a", bad)).problem


def test_a_vector_without_a_source_offset_has_none() -> None:
    assert read_output(record(b"a", vector_bytes(unit(0), source_offset=None))).source_offset is None


@pytest.mark.parametrize(
    ("headers", "source"),
    [((("align-source-offset", b"12"),), 12), ((), None), ((("align-source-offset", b"x"),), None)],
)
def test_a_tombstone_is_read(headers: tuple[tuple[str, bytes], ...], source: int | None) -> None:
    assert read_output(record(b"a", None, headers)) == Output(2, 7, 99, b"a", Kind.DELETE, source)


def test_a_dead_letter_matches_the_input_it_keeps() -> None:
    value = b"\xc1 not msgpack"
    kept = DeadLetter(
        key=b"a", value=value, topic="items", partition=2, offset=7, timestamp=99, reason=Reason.NOT_MSGPACK,
        stage="decode", worker_version="1", failed_at_ms=1,
    )  # fmt: skip
    got, source = read_letter(record(b"a", encode(kept))), read_input(record(b"a", value), {})
    assert (got.topic, got.source, got.reason) == ("items", source.position, "not_msgpack")
    assert (got.key, got.digest, got.timestamp) == (source.key, source.digest, source.timestamp)
    assert "does not decode" in read_letter(record(b"a", b"\xc1")).problem
    assert "does not decode" in read_letter(record(b"a", None)).problem


def test_counters_are_summed_over_labels() -> None:
    page = """
# TYPE align_records_consumed_total counter
align_records_consumed_total{topic="items"} 10.0
# TYPE align_records_consumed_created gauge
align_records_consumed_created{topic="items"} 1.7e9
# TYPE align_records_published_total counter
align_records_published_total{topic="items",kind="upsert"} 5.0
align_records_published_total{topic="items",kind="tombstone"} 2.0
# TYPE align_records_superseded_total counter
align_records_superseded_total{topic="items",reason="stale"} 1.0
# TYPE align_records_dead_lettered_total counter
align_records_dead_lettered_total{topic="items",reason="not_msgpack"} 0.0
# TYPE align_records_abandoned_total counter
align_records_abandoned_total{topic="items"} 0.0
# TYPE align_records_in_flight gauge
align_records_in_flight{topic="items"} 2.0
"""
    accounts = parse_counters(page)
    assert accounts["items"] == {
        "consumed": 10, "published": 7, "superseded": 1, "dead_lettered": 0, "abandoned": 0, "in_flight": 2,
    }  # fmt: skip
    run = good_run()
    run.counters = [accounts]  # type: ignore[list-item]
    assert run.verdict().ok
