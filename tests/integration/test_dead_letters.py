"""What cannot be processed: kept whole, told apart, and sent again once its cause is gone."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from schemas import ItemVector, Reason, decode
from tests.integration.poison import TRACE, WRONG_ENCODER, Poison, every_kind
from tests.integration.stream import DIMS, ENCODER, SPACE_DIM, Stream, names
from tests.integration.worker_thread import WorkerThread
from tests.worker_process import as_text
from worker.__main__ import main
from worker.align import Space, command

NUM_GOOD = 1_500
OF_RAW_CONTENT = {Reason.UNDECODABLE, Reason.DECODER_FAILED, Reason.URI_REFUSED, Reason.FETCH_FAILED}
OF_OTHER_FORMATS = {Reason.WRONG_FORMAT}
NOT_OF_INPUTS = {Reason.MODEL_FAILURE, Reason.PUBLISH_REFUSED, Reason.UNREADABLE} | OF_RAW_CONTENT | OF_OTHER_FORMATS


@pytest.fixture(scope="session")
def strict_space_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A space that accepts one encoder."""
    path = tmp_path_factory.mktemp("spaces") / "strict"
    command.create(path, DIMS, dim=SPACE_DIM, encoders={"text": ENCODER})
    return path


def flags(stream: Stream) -> list[str]:
    groups = ("kafka.", "topics.")
    return [f"--{name}={as_text(value)}" for name, value in stream.settings().items() if name.startswith(groups)]


def feed_with_poison(stream: Stream, kinds: Sequence[Poison]) -> None:
    """Every hundredth record and more is poison, each kind twice, one of each in either partition."""
    records = [stream.upsert(name) for name in names(NUM_GOOD)]
    for number, poison in enumerate([*kinds, *kinds]):
        record = stream.record(poison.key, poison.value, headers=poison.headers, partition=number % 2)
        records.insert((number * 31) % len(records), record)
    stream.feed_with_librdkafka(records)


def test_the_kinds_cover_every_reason_that_an_input_can_give() -> None:
    assert {poison.reason for poison in every_kind()} == set(Reason) - NOT_OF_INPUTS


def test_poison_is_kept_whole_and_harms_no_neighbour(
    stream: Stream, strict_space_path: Path, space_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stream.space, stream.space_path = Space.load(strict_space_path), str(strict_space_path)
    kinds = list(every_kind())
    feed_with_poison(stream, kinds)
    with WorkerThread(stream.settings({"state.features": False})) as worker:
        stream.wait_committed(worker)
        worker.until(lambda: worker.items.accounting.in_flight == 0)
        verdict = stream.verdict([worker.metrics_url])
        counted = {reason: worker.metric("align_records_dead_lettered_total", reason=reason.value) for reason in Reason}
    assert verdict.ok, verdict.explain()
    assert Counter(stream.published()) == Counter((name, 1) for name in names(NUM_GOOD))
    expected = Counter(poison.reason for poison in [*kinds, *kinds])
    assert counted == {reason: expected[reason] for reason in Reason}
    assert_kept_whole(stream, kinds)

    assert_listed(stream, kinds, capsys)
    assert_shown(stream, capsys)
    assert_replayed(stream, space_path, capsys)


def assert_kept_whole(stream: Stream, kinds: Sequence[Poison]) -> None:
    sources = {(record.partition, record.offset): record for record in stream.input_records()}
    letters = stream.dead_letters()
    by_content = {(poison.key, poison.value): poison for poison in kinds}
    for letter, carrier in zip(letters, stream.letter_records(), strict=True):
        source = sources[letter.partition, letter.offset]
        assert (letter.topic, letter.timestamp) == (stream.items, source.timestamp)
        assert (letter.key, letter.value, letter.headers) == (source.key, source.value, tuple(source.headers))
        poison = by_content[letter.key, letter.value]
        assert letter.reason == poison.reason, (poison.kind, letter.detail)
        assert letter.headers == poison.headers
        assert letter.detail
        assert (letter.space_id, letter.stage) == (stream.space.space_id, "decode")
        assert tuple(carrier.headers) == TRACE
        assert carrier.key == letter.key if letter.key is not None else carrier.key is not None
    assert Counter((letter.key, letter.value) for letter in letters) == Counter(dict.fromkeys(by_content, 2))


def assert_listed(stream: Stream, kinds: Sequence[Poison], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dlq", "list", *flags(stream)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * len(kinds)
    assert all(f"{stream.items}/" in line for line in lines)
    assert main(["dlq", "list", "--json", "--reason", "wrong_shape", "--limit", "3", *flags(stream)]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [entry["reason"] for entry in listed] == ["wrong_shape"] * 3
    assert "features.text.shape" in listed[0]["detail"]


def assert_shown(stream: Stream, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dlq", "list", "--json", "--reason", WRONG_ENCODER, *flags(stream)]) == 0
    position = json.loads(capsys.readouterr().out.splitlines()[0])["position"]
    assert main(["dlq", "show", position, *flags(stream)]) == 0
    text = capsys.readouterr().out
    assert "features.text.encoder: came 'newer'; the space expects 'e'" in text
    assert main(["dlq", "show", position, "--json", *flags(stream)]) == 0
    shown = json.loads(capsys.readouterr().out)
    letter = next(letter for letter in stream.dead_letters() if letter.offset == shown["offset"])
    assert base64.b64decode(shown["value_base64"]) == letter.value
    assert base64.b64decode(shown["key_base64"]) == letter.key == b"encoder"
    headers = [(name, None if value is None else base64.b64decode(value)) for name, value in shown["headers"]]
    assert headers == list(letter.headers)
    assert main(["dlq", "show", "0/999999", *flags(stream)]) == 1
    assert "no dead letter at 0/999999" in capsys.readouterr().err


def assert_replayed(stream: Stream, space_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The cause of a wrong encoder is gone with a space that accepts it, and its vectors go to a topic of their own."""
    replay = ["dlq", "replay", "--reason", WRONG_ENCODER, *flags(stream)]
    before = stream.ends()
    assert main([*replay, "--dry-run"]) == 0
    assert capsys.readouterr().out.count("would send") == 2
    assert stream.ends() == before
    assert main(replay) == 0
    assert "2 records sent" in capsys.readouterr().out
    assert sum(stream.ends().values()) == sum(before.values()) + 2
    replayed = [record for record in stream.input_records() if record.offset >= before[record.partition]]
    originals = [letter for letter in stream.dead_letters() if letter.reason == WRONG_ENCODER]
    assert Counter((r.partition, r.key, r.value) for r in replayed) == Counter(
        (letter.partition, letter.key, letter.value) for letter in originals
    )
    assert all("align-replayed-from" in dict(record.headers) for record in replayed)

    stream.topics = {**stream.topics, "item_vectors": f"{stream.vectors}-next"}
    stream.broker.create_topics({stream.vectors: stream.num_partitions})
    stream.space, stream.space_path = Space.load(space_path), str(space_path)
    with WorkerThread(stream.settings()) as worker:
        stream.wait_committed(worker)
    published = stream.output_records()
    assert [(record.key, decode(ItemVector, record.value).space_id) for record in published] == [
        (b"encoder", stream.space.space_id)
    ] * len(published)
    assert {record.partition for record in published} == {0, 1}, "a replay goes to the partition it came from"


def test_everything_can_be_replayed_at_once(stream: Stream, capsys: pytest.CaptureFixture[str]) -> None:
    """What is still wrong comes back with its bytes; what never can be right is named."""
    kinds = [poison for poison in every_kind() if poison.kind in ("garbage", "delete without key", "no key")]
    stream.feed_with_librdkafka(stream.record(poison.key, poison.value) for poison in kinds)
    with WorkerThread(stream.settings()) as worker:
        stream.wait_committed(worker)
        assert main(["dlq", "replay", *flags(stream)]) == 0
        told = capsys.readouterr().out
        stream.wait_committed(worker)
    assert "2 records sent" in told
    assert told.count("skipped, it has neither key nor value") == 1
    again = Counter((letter.key, letter.value) for letter in stream.dead_letters())
    assert again == Counter({(b"garbage", kinds[0].value): 2, (None, None): 1, (None, kinds[1].value): 2})
