import json
from collections.abc import Iterator
from typing import Any

import pytest

from schemas import DeadLetter, Reason, encode
from tests.fakes import FakeClient, FakeCluster
from worker.__main__ import main
from worker.commands.arguments import print_json
from worker.commands.dead_letters import (
    MARK_HEADER,
    MARK_KEY,
    REPLAY_HEADER,
    Selection,
    Stored,
    full,
    hex_dump,
    one_line,
    read_letters,
    read_replayed,
    readable,
    replay,
)
from worker.commands.times import moment
from worker.errors import ClientError, TopicError, UnreadableError
from worker.records import TopicPartition
from worker.settings import Settings


def letter(offset: int, reason: Reason = Reason.NON_FINITE, value: bytes | None = b"\x00abc\xff") -> DeadLetter:
    return DeadLetter(
        key=b"k%d" % offset, value=value, headers=(("h", b"1"), ("null", None)), topic="items", partition=1,
        offset=offset, timestamp=5, reason=reason, stage="decode", detail="why", worker_version="1",
        space_id="s", failed_at_ms=1_000 * offset,
    )  # fmt: skip


@pytest.fixture
def cluster() -> FakeCluster:
    cluster = FakeCluster(2)
    for offset, reason in enumerate([Reason.NON_FINITE, Reason.WRONG_SHAPE, Reason.NON_FINITE]):
        cluster.append("dead-letters", offset % 2, b"k", encode(letter(offset, reason)))
    return cluster


def test_selections(cluster: FakeCluster) -> None:
    letters = list(read_letters(FakeClient(cluster), "dead-letters"))
    assert [stored.position for stored in letters] == ["0/0", "0/1", "1/0"]
    assert [s.letter.offset for s in Selection(reason="wrong_shape").of(letters)] == [1]
    assert [s.letter.offset for s in Selection(since_ms=1_500).of(letters)] == [2]
    assert [s.letter.offset for s in Selection(positions=frozenset({"0/1"})).of(letters)] == [2]
    assert [s.letter.offset for s in Selection(limit=2).of(letters)] == [0, 2]
    assert list(Selection(topic="events").of(letters)) == []


def test_what_comes_while_letters_are_read_is_left_for_the_next_time(cluster: FakeCluster) -> None:
    read = []
    for stored in read_letters(FakeClient(cluster), "dead-letters"):
        read.append(stored.position)
        for partition in (0, 1):
            cluster.append("dead-letters", partition, b"k", encode(letter(9)))
    assert read == ["0/0", "0/1", "1/0"]


def test_a_replay_sends_the_original_record_to_where_it_came_from(cluster: FakeCluster) -> None:
    client = FakeClient(cluster)
    told: list[Any] = []
    assert replay(client, Settings(), read_letters(client, "dead-letters"), told.append) == 3
    sent = cluster.records("items")
    assert {(record.partition, record.key, record.value) for record in sent} == {
        (1, b"k%d" % n, b"\x00abc\xff") for n in range(3)
    }
    assert sent[0].headers == (("h", b"1"), ("null", None), (REPLAY_HEADER, b"0/0"))
    assert [stored.position for stored in told] == ["0/0", "0/1", "1/0"]
    assert all(producer.closed for producer in client.producers)


def test_a_replay_that_fails_says_so_and_claims_nothing(cluster: FakeCluster) -> None:
    client = FakeClient(cluster, refuse=lambda topic, key: ClientError("no"))
    told: list[Any] = []
    with pytest.raises(ClientError):
        replay(client, Settings(), read_letters(client, "dead-letters"), told.append)
    assert told == []


def test_replaying_a_delete_sends_a_null_value(cluster: FakeCluster) -> None:
    cluster.append("dead-letters", 0, b"k", encode(letter(9, value=None)))
    client = FakeClient(cluster)
    replay(client, Settings(), Selection(positions=frozenset({"0/2"})).of(read_letters(client, "dead-letters")), print)
    assert cluster.records("items")[-1].value is None


def test_what_is_shown_has_all_bytes(cluster: FakeCluster) -> None:
    stored = next(read_letters(FakeClient(cluster), "dead-letters"))
    assert json.loads(json.dumps(full(stored)))["value_base64"] == "AGFiY/8="
    assert "00 61 62 63 ff" in readable(stored)
    assert "non_finite" in one_line(stored)
    assert hex_dump(b"\x00A\n") == ["  00000000  00 41 0a" + " " * 40 + " .A."]


@pytest.mark.parametrize("timestamp", [-1, -(2**63), 2**63 - 1])
def test_a_timestamp_that_is_no_time_can_be_shown(timestamp: int) -> None:
    assert full(Stored(0, 0, letter(1).model_copy(update={"timestamp": timestamp})))["timestamp"]


def test_a_topic_of_something_else_is_refused(cluster: FakeCluster) -> None:
    cluster.append("dead-letters", 0, b"k", b"\xc1")
    with pytest.raises(TopicError, match="dead-letters/0 offset 2 is not a dead letter"):
        list(read_letters(FakeClient(cluster), "dead-letters"))
    with pytest.raises(TopicError, match="does not exist"):
        list(read_letters(FakeClient(cluster), "nothing"))


def position(stored: Any) -> Any:
    return stored.partition, stored.offset


def replay_rest(client: Any, chunk: Any = 200) -> Any:
    """As `dlq replay` does; the positions that were sent."""
    before, sent = read_replayed(client, "dead-letters"), list[Any]()
    letters = (stored for stored in read_letters(client, "dead-letters") if position(stored) not in before)
    replay(client, Settings(), letters, sent.append, chunk=chunk)
    return [stored.position for stored in sent]


def test_what_was_replayed_is_not_sent_again(cluster: FakeCluster) -> None:
    client = FakeClient(cluster)
    assert replay_rest(client) == ["0/0", "0/1", "1/0"]
    assert replay_rest(client) == []
    cluster.append("dead-letters", 0, b"k", encode(letter(7)))
    assert replay_rest(client) == ["0/3"], "a mark lies at 0/2"
    assert [stored.position for stored in read_letters(client, "dead-letters")] == ["0/0", "0/1", "0/3", "1/0"]


def test_a_replay_of_some_leaves_the_others_to_the_next_one(cluster: FakeCluster) -> None:
    client = FakeClient(cluster)
    some = Selection(reason="wrong_shape").of(read_letters(client, "dead-letters"))
    replay(client, Settings(), some, print)
    assert replay_rest(client) == ["0/0", "0/1"]


def test_a_replay_that_breaks_off_has_marked_what_it_claims_and_the_next_one_sends_the_rest(
    cluster: FakeCluster,
) -> None:
    class BrokenOffError(Exception):
        pass

    client, told = FakeClient(cluster), list[Any]()

    def letters() -> Iterator[Any]:
        for number, stored in enumerate(read_letters(client, "dead-letters")):
            if number == 2:
                raise BrokenOffError
            yield stored

    with pytest.raises(BrokenOffError):
        replay(client, Settings(), letters(), told.append, chunk=1)
    assert [stored.position for stored in told] == ["0/0", "0/1"]
    assert read_replayed(client, "dead-letters") == {(0, 0), (0, 1)}
    assert replay_rest(client) == ["1/0"]


def test_a_mark_that_cannot_be_written_is_an_error_and_the_record_is_sent_again(cluster: FakeCluster) -> None:
    client = FakeClient(cluster, refuse=lambda topic, key: ClientError("no") if topic == "dead-letters" else None)
    told: list[Any] = []
    with pytest.raises(ClientError):
        replay(client, Settings(), read_letters(client, "dead-letters"), told.append)
    assert told == []
    assert len(cluster.records("items")) == 3
    assert replay_rest(FakeClient(cluster)) == ["0/0", "0/1", "1/0"]


def test_what_strangers_write_into_marks_does_no_harm(cluster: FakeCluster) -> None:
    for value in (b"", b"x", b"1,,-2,\xff,3", None):
        cluster.append("dead-letters", 1, MARK_KEY, None, [(MARK_HEADER, value)])
    cluster.append("dead-letters", 0, b"other", None, [(MARK_HEADER, b"0")])
    assert read_replayed(FakeClient(cluster), "dead-letters") == {(1, 1), (1, 3)}


HOSTILE = letter(1).model_copy(
    update={
        "key": b"two\nlines\x1b[2J\xff\r" + "\u202e\x9b\u2028".encode() + b"k" * 500,
        "detail": "first\nsecond \x1b]0;title\x07 \u2066" + "d" * 1_000,
        "topic": "items\x1b[31m",
        "headers": (("name\x1b[31m\n", b"\x1b[2J\xfe"), ("none", None)),
        "stage": "decode\x1b",
        "worker_version": "1\x7f",
    }
)


def test_a_letter_is_one_printable_line_whatever_strangers_wrote() -> None:
    line = one_line(Stored(0, 3, HOSTILE))
    assert line.isprintable()
    assert len(line) < 700
    assert "key=two\\nlines\\u001b[2J\\xff\\r\\u202e\\u009b\\u2028kkk" in line
    assert "more characters)" in line


def test_all_of_a_letter_is_shown_without_driving_the_terminal() -> None:
    lines = readable(Stored(0, 3, HOSTILE)).split("\n")
    assert all(line.isprintable() for line in lines)
    assert "header          name\\u001b[31m\\n=\\u001b[2J\\xfe" in lines
    assert "header          none=null" in lines


def test_json_for_scripts_is_one_line_with_everything_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    print_json(full(Stored(0, 3, HOSTILE)), indent=None)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert out[:-1].isprintable()
    assert json.loads(out) == full(Stored(0, 3, HOSTILE))


NOW = 1_767_225_600_000


@pytest.mark.parametrize(
    ("text", "ms", "is_utc"),
    [
        ("5m", NOW - 300_000, False),
        ("2h", NOW - 7_200_000, False),
        ("1.5h", NOW - 5_400_000, False),
        ("30s", NOW - 30_000, False),
        ("3 d", NOW - 3 * 86_400_000, False),
        ("1w", NOW - 7 * 86_400_000, False),
        ("1767225600000", NOW, False),
        ("2026-01-01T00:00:00Z", NOW, False),
        ("2026-01-01T01:00+01:00", NOW, False),
        ("2026-01-01T00:00:00.250", NOW + 250, True),
        ("2026-01-01 00:00", NOW, True),
        ("2026-01-01", NOW, True),
    ],
)
def test_times_are_taken_as_people_write_them(text: str, ms: int, is_utc: bool) -> None:
    assert moment(text, NOW) == (ms, is_utc)


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "5", "5x", "-5m", "m", "25:00", "2026-13-01", "١٢m", "9" * 40, "9" * 40 + "d", "1e3h", "nan"],
)
def test_what_is_no_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no time; give 5m, 2h"):
        moment(text, NOW)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["list", "--since", "soon"], "--since: 'soon' is no time"),
        (["list", "--since", "1h", "--until", "2h"], "--since is not before --until"),
        (["list", "--reason", "nan"], "--reason nan: there is no such reason; there are "),
        (["show", "17"], "'17' is no position: give PARTITION/OFFSET, as 0/17"),
        (["replay", "a/b"], "'a/b' is no position"),
    ],
)
def test_a_selection_that_means_nothing_is_refused_before_anything_is_read(
    arguments: list[Any], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dlq", *arguments, "--kafka.bootstrap_servers", "localhost:1"]) == 2
    assert told in capsys.readouterr().err


@pytest.fixture
def on_cluster(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.commands.dlq.connected", lambda settings: FakeClient(cluster))


@pytest.mark.usefixtures("on_cluster")
def test_what_is_found_and_what_is_not_decides_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dlq", "list", "--quiet"]) == 0
    assert capsys.readouterr().out == "0/0\n0/1\n1/0\n"
    assert main(["dlq", "list", "--until", "1970-01-01T00:00:01Z", "--quiet"]) == 0
    assert capsys.readouterr() == ("0/0\n", "")
    assert main(["dlq", "list", "--since", "1970-01-01T00:00:02", "--quiet"]) == 0
    assert capsys.readouterr() == ("0/1\n", "--since 1970-01-01T00:00:02 has no zone and is taken as UTC\n")
    assert main(["dlq", "show", "0/0", "7/7"]) == 1
    assert "no dead letter at 7/7" in capsys.readouterr().err
    assert main(["dlq", "replay", "0/0", "1/0", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["dlq", "replay", "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("would send      0/1")
    assert out.count("\n") == 1
    assert err == "2 had been replayed before and were left out; --again sends them again\n"
    assert main(["dlq", "replay", "--limit", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["position"] == "0/1"
    assert main(["dlq", "replay", "--again"]) == 0
    assert "3 records sent" in capsys.readouterr().out
    assert main(["dlq", "replay", "3/3"]) == 1


def test_a_replay_keeps_names_of_headers_that_are_not_utf8() -> None:
    headers = [("caf\udce9", b"1"), ("", b""), ("same", None), ("same", b"2")]
    cluster = FakeCluster(2)
    odd = letter(0).model_dump(exclude_defaults=True) | {"headers": headers}
    cluster.append("dead-letters", 0, b"k", encode(DeadLetter(**odd)))
    client = FakeClient(cluster)
    (found,) = read_letters(client, "dead-letters")
    assert found.letter.headers[0] == ("caf?", b"1")
    assert full(found)["header_names"] == ["Y2Fm6Q==", None, None, None]
    replay(client, Settings(), [found], lambda stored: None)
    (sent,) = cluster.records("items")
    assert list(sent.headers) == [*headers, (REPLAY_HEADER, b"0/0")]


def test_what_a_letter_does_not_have_whole_is_replayed_from_the_log(cluster: FakeCluster) -> None:
    left_out = letter(1, value=None).model_copy(update={"original_bytes": 9_000})
    gone = letter(7, value=None).model_copy(update={"original_bytes": 9_000})
    batch = letter(0, Reason.UNREADABLE)
    for number in range(2):
        cluster.append("items", 1, b"key-%d" % number, b"value-%d" % number, [("h", b"%d" % number)])
    client, skipped = FakeClient(cluster), []
    stored = [Stored(0, number, each) for number, each in enumerate([left_out, gone, batch])]
    num_sent = replay(client, Settings(), stored, lambda stored: None, lambda stored, why: skipped.append(why))
    assert num_sent == 1
    sent = cluster.records("items")[-1]
    assert (sent.key, sent.value, sent.headers[0]) == (b"key-1", b"value-1", ("h", b"1"))
    assert skipped == [
        "it is not whole, and the log no longer has the record",
        "it is a batch that could not be read, and no record",
    ]


def test_letters_behind_and_beside_what_cannot_be_read_are_listed_first(cluster: FakeCluster) -> None:
    cluster.unreadable.add((TopicPartition("dead-letters", 0), 1))
    found: list[str] = []
    letters = (found.append(stored.position) for stored in read_letters(FakeClient(cluster), "dead-letters"))
    with pytest.raises(UnreadableError, match="dead-letters/0 cannot be read on from offset 1"):
        list(letters)
    assert found == ["0/0", "1/0"]
