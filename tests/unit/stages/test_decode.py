from typing import Any

import numpy as np
import pytest

from schemas import Content, Feature, NewItem, Reason, UserEvent, encode
from schemas.times import MAX_TIME_MS
from tests.fakes import FakeRecord, feature, item_value
from worker.align import Contract
from worker.align.spec import ModalitySpec, SelfAttentionSpec, SpaceSpec
from worker.records import Action, Delete, Item, Rejection, Unused
from worker.stages.decode import EventDecoder, ItemDecoder

SPEC = SpaceSpec(
    dim=8,
    width=8,
    modalities={"text": ModalitySpec(dim=4), "image": ModalitySpec(dim=6, encoder="clip", max_vectors=2)},
    fusion=SelfAttentionSpec(kind="self_attention", layers=1, heads=2, hidden=16),
)


@pytest.fixture
def decoder() -> ItemDecoder:
    return ItemDecoder(Contract(SPEC), partial=False)


def record(value: bytes | None, key: bytes | None = b"a", offset: int = 0) -> FakeRecord:
    return FakeRecord(offset=offset, key=key, value=value)


def unchecked(fill: float) -> bytes:
    """An item that our own encoder refuses to write."""
    good = message(features={"text": feature(fill=3.0)})
    return good.replace(feature(fill=3.0).data, feature(fill=fill).data)


def message(**fields: Any) -> bytes:
    return encode(
        NewItem(**{"item_id": "a", "revision": 1, "event_time_ms": 5, "features": {"text": feature()}, **fields})
    )


def test_a_good_item(decoder: ItemDecoder) -> None:
    (item,) = decoder.decode([record(message())]).entries
    assert isinstance(item, Item)
    assert (item.id, item.revision, item.event_time_ms, list(item.features)) == ("a", 1, 5, ["text"])


def test_a_null_value_is_a_delete(decoder: ItemDecoder) -> None:
    (entry,) = decoder.decode([record(None)]).entries
    assert isinstance(entry, Delete)
    assert entry.id == "a"


@pytest.mark.parametrize(
    ("value", "key", "reason", "detail"),
    [
        (b"\xc1", b"a", Reason.NOT_MSGPACK, ""),
        (b"", b"a", Reason.NOT_MSGPACK, ""),
        (message(), b"b", Reason.KEY_MISMATCH, "item_id 'a'"),
        (message(), None, Reason.KEY_MISMATCH, "item_id 'a'"),
        (None, None, Reason.KEY_MISMATCH, "1 to 512"),
        (None, b"\xff", Reason.KEY_MISMATCH, "UTF-8"),
        (message(partial=True), b"a", Reason.PARTIAL_UNSUPPORTED, "partial"),
        (message(features={"text": feature(5)}), b"a", Reason.WRONG_SHAPE, "features.text.shape: came [5]"),
        (message(features={"image": feature(6)}), b"a", Reason.WRONG_ENCODER, "expects 'clip'"),
        (message(features={"smell": feature()}), b"a", Reason.NO_MODALITY, "image, text"),
        (message(features={}), b"a", Reason.NO_MODALITY, "none"),
        (unchecked(float("nan")), b"a", Reason.NON_FINITE, "features.text.data"),
        (unchecked(float("-inf")), b"a", Reason.NON_FINITE, "features.text.data"),
    ],
)
def test_a_bad_record_is_rejected_with_its_reason(
    decoder: ItemDecoder, value: bytes | None, key: bytes | None, reason: Reason, detail: str
) -> None:
    bad = record(value, key, offset=1)
    before, rejection, after = decoder.decode([record(message()), bad, record(message(), offset=2)]).entries
    assert isinstance(before, Item)
    assert isinstance(after, Item)
    assert isinstance(rejection, Rejection)
    assert rejection.record is bad
    assert rejection.reason is reason
    assert detail in rejection.detail


def test_a_modality_that_the_space_lacks_is_left_out_and_counted(decoder: ItemDecoder) -> None:
    decoded = decoder.decode([record(message(features={"text": feature(), "smell": feature()}))])
    assert list(decoded.entries[0].features) == ["text"]
    assert decoded.num_features_ignored == 1


def test_raw_content_is_counted_where_no_feature_stands_for_it(decoder: ItemDecoder) -> None:
    content = {"text": Content(text="hello"), "image": Content(data=b"\x89PNG")}
    decoded = decoder.decode([record(message(content=content))])
    assert isinstance(decoded.entries[0], Item)
    assert decoded.num_content_ignored == 1


def test_decoding_together_equals_decoding_one_by_one(decoder: ItemDecoder) -> None:
    records = [
        record(value, offset=offset)
        for offset, value in enumerate(
            [message(), None, b"x", unchecked(float("inf")), item_value("a"), message(revision=2)]
        )
    ]
    together = decoder.decode(records).entries
    assert together == [decoder.decode([each]).entries[0] for each in records]


NOW_MS = 1_767_225_600_000
HOUR_MS, YEAR_MS = 3_600_000, 365 * 86_400_000


def at(time_ms: int, timestamp: int = NOW_MS) -> FakeRecord:
    return FakeRecord(key=b"a", value=message(event_time_ms=time_ms), timestamp=timestamp)


def event_at(time_ms: int, timestamp: int = NOW_MS, event_type: str = "like") -> FakeRecord:
    event = UserEvent(event_id="e", user_id="u", item_id="i", event_type=event_type, event_time_ms=time_ms)
    return FakeRecord(key=event.key, value=encode(event), timestamp=timestamp)


@pytest.mark.parametrize("ahead_ms", [HOUR_MS + 1, 2 * HOUR_MS, YEAR_MS, MAX_TIME_MS - NOW_MS])
def test_a_time_too_far_after_the_kafka_timestamp_is_rejected_for_items_and_events(
    decoder: ItemDecoder, ahead_ms: int
) -> None:
    events = EventDecoder(["like"])
    for rejection in (
        decoder.decode([at(NOW_MS + ahead_ms)]).entries[0],
        events.decode([event_at(NOW_MS + ahead_ms)]).entries[0],
        events.decode([event_at(NOW_MS + ahead_ms, event_type="unused")]).entries[0],
    ):
        assert isinstance(rejection, Rejection)
        assert rejection.reason is Reason.FUTURE_TIME
        assert "after the record's Kafka timestamp" in rejection.detail
        assert "limits.max_future_s" in rejection.detail


@pytest.mark.parametrize("timestamp", [0, NOW_MS])
@pytest.mark.parametrize("seconds", [NOW_MS // 1000, 100_000_000, 9_999_999_999])
def test_a_time_in_seconds_is_rejected_by_that_name(decoder: ItemDecoder, seconds: int, timestamp: int) -> None:
    for rejection in (
        decoder.decode([at(seconds, timestamp)]).entries[0],
        EventDecoder(["like"]).decode([event_at(seconds, timestamp)]).entries[0],
    ):
        assert isinstance(rejection, Rejection)
        assert rejection.reason is Reason.INVALID_FIELD
        assert rejection.detail == "event_time_ms: looks like seconds: should be milliseconds since 1970"


@pytest.mark.parametrize("time_ms", [0, 99_999_999, 10_000_000_000])
def test_a_time_that_is_no_second_of_our_days_is_taken(decoder: ItemDecoder, time_ms: int) -> None:
    assert isinstance(decoder.decode([at(time_ms)]).entries[0], Item)


def test_the_detail_says_how_far(decoder: ItemDecoder) -> None:
    (rejection,) = decoder.decode([at(NOW_MS + YEAR_MS)]).entries
    assert rejection.detail.startswith("event_time_ms: lies 365.0 days after")
    assert "at most 60.0 minutes are allowed" in rejection.detail


@pytest.mark.parametrize("ahead_ms", [-YEAR_MS, -1, 0, 1, HOUR_MS])
def test_a_time_before_that_is_taken(decoder: ItemDecoder, ahead_ms: int) -> None:
    assert isinstance(decoder.decode([at(NOW_MS + ahead_ms)]).entries[0], Item)
    assert isinstance(EventDecoder(["like"]).decode([event_at(NOW_MS + ahead_ms)]).entries[0], Action)


def test_the_bound_is_a_setting_and_what_a_replay_finds_does_not_depend_on_the_clock() -> None:
    strict = ItemDecoder(Contract(SPEC), max_future_s=0.5)
    assert isinstance(strict.decode([at(NOW_MS + 501)]).entries[0], Rejection)
    assert isinstance(strict.decode([at(NOW_MS + 500)]).entries[0], Item)
    long_ago = 1_000_000_000_000
    assert isinstance(strict.decode([at(NOW_MS, long_ago)]).entries[0], Rejection), "by now it lies in the past"


@pytest.mark.parametrize("timestamp", [-1, 0])
def test_without_a_kafka_timestamp_there_is_no_future(decoder: ItemDecoder, timestamp: int) -> None:
    assert isinstance(decoder.decode([at(MAX_TIME_MS, timestamp)]).entries[0], Item)


def test_unused_types_are_counted() -> None:
    records = [event_at(NOW_MS, event_type=kind) for kind in ("like", "buy", "cart", "buy")]
    decoded = EventDecoder(["like"]).decode(records)
    assert decoded.unused_types == {"buy": 2, "cart": 1}


@pytest.mark.parametrize(
    "fields",
    [
        {"features": {"smell": feature()}},
        {"features": {}, "content": {"text": Content(text="hello")}},
        {"features": {}, "neighbors": ("b",)},
        {"features": {}},
    ],
)
def test_a_partial_message_of_nothing_the_space_uses_is_left_to_what_is_known_of_the_item(
    fields: dict[str, Any],
) -> None:
    decoder = ItemDecoder(Contract(SPEC))
    (unused,) = decoder.decode([record(message(partial=True, **fields))]).entries
    assert isinstance(unused, Unused)
    assert (unused.id, unused.rejection.reason) == ("a", Reason.NO_MODALITY)
    (rejection,) = decoder.decode([record(message(**fields))]).entries
    assert rejection == unused.rejection._replace(record=rejection.record)


def of(values: Any) -> Feature:
    return Feature.from_numpy(values, dtype="f4", encoder="clip")


ZERO_TEXT, GOOD_TEXT = of(np.zeros(4)), of([1.0, 2.0, 3.0, 4.0])
GOOD_IMAGE, ZERO_IMAGE = of(np.arange(6.0)), of(np.zeros(6))


def test_a_feature_that_says_nothing_is_no_modality_and_is_counted(decoder: ItemDecoder) -> None:
    decoded = decoder.decode(
        [
            record(message(features={"text": GOOD_TEXT, "image": ZERO_IMAGE})),
            record(message(features={"text": GOOD_TEXT, "image": of([np.zeros(6), np.arange(6.0)])})),
            record(message(features={"text": GOOD_TEXT, "image": GOOD_IMAGE})),
        ]
    )
    first, second, third = decoded.entries
    assert list(first.features) == ["text"]
    assert second.features["image"].shape == (1, 6)
    assert third.features["image"] == GOOD_IMAGE
    assert decoded.uninformative == {"image": 2}


def test_an_item_of_nothing_else_is_rejected(decoder: ItemDecoder) -> None:
    (rejection,) = decoder.decode([record(message(features={"text": ZERO_TEXT, "image": ZERO_IMAGE}))]).entries
    assert rejection.reason is Reason.NO_MODALITY
    assert rejection.detail == "features: text, image without information (all zeros, one value, or nearly so)"


def test_a_partial_message_of_nothing_else_displaces_nothing() -> None:
    (unused,) = (
        ItemDecoder(Contract(SPEC)).decode([record(message(features={"text": ZERO_TEXT}, partial=True))]).entries
    )
    assert isinstance(unused, Unused)


def test_values_too_large_to_compute_with_are_rejected(decoder: ItemDecoder) -> None:
    (rejection,) = decoder.decode(
        [record(message(features={"text": of([3e38, 1, 2, 3]), "image": GOOD_IMAGE}))]
    ).entries
    assert rejection.reason is Reason.NON_FINITE
    assert "features.text.data" in rejection.detail


def test_the_numbers_that_popularity_is_read_from_count_as_they_are() -> None:
    spec = SPEC.model_copy(update={"prior": "text"})
    (item,) = ItemDecoder(Contract(spec)).decode([record(message(features={"text": ZERO_TEXT}))]).entries
    assert isinstance(item, Item)
    assert list(item.features) == ["text"]


def test_the_bytes_of_a_message_go_on_where_they_hold_what_is_kept_of_it_and_no_more(decoder: ItemDecoder) -> None:
    (item,) = decoder.decode([record(message())]).entries
    assert item.message == message()
    image = Feature.from_numpy(np.arange(6), encoder="clip")
    flat = Feature.from_numpy(np.zeros(6), encoder="clip")
    several = ItemDecoder(Contract(SPEC))
    for more in (
        {"partial": True},
        {"neighbors": ("b",)},
        {"attributes": {"price": 3}},
        {"content": {"text": Content(text="a")}},
        {"features": {"text": feature(), "smell": feature()}},
        {"features": {"text": feature(), "image": flat}},
    ):
        (item,) = several.decode([record(message(**more))]).entries
        assert isinstance(item, Item)
        assert item.message is None, more
    (item,) = several.decode([record(message(features={"text": feature(), "image": image}))]).entries
    assert item.message is not None
