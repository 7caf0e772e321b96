import pytest

from schemas import Content, NewItem, Reason, encode
from tests.fakes import FakeRecord, feature, item_value
from worker.align import Contract
from worker.align.spec import ModalitySpec, SelfAttentionSpec, SpaceSpec
from worker.records import Delete, Item, Rejection
from worker.stages.decode import ItemDecoder

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


def message(**fields) -> bytes:
    return encode(
        NewItem(**{"item_id": "a", "revision": 1, "event_time_ms": 5, "features": {"text": feature()}, **fields})
    )


def test_a_good_item(decoder):
    (item,) = decoder.decode([record(message())]).entries
    assert isinstance(item, Item)
    assert (item.id, item.revision, item.event_time_ms, list(item.features)) == ("a", 1, 5, ["text"])


def test_a_null_value_is_a_delete(decoder):
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
def test_a_bad_record_is_rejected_with_its_reason(decoder, value, key, reason, detail):
    bad = record(value, key, offset=1)
    before, rejection, after = decoder.decode([record(message()), bad, record(message(), offset=2)]).entries
    assert isinstance(before, Item)
    assert isinstance(after, Item)
    assert isinstance(rejection, Rejection)
    assert rejection.record is bad
    assert rejection.reason is reason
    assert detail in rejection.detail


def test_a_modality_that_the_space_lacks_is_left_out_and_counted(decoder):
    decoded = decoder.decode([record(message(features={"text": feature(), "smell": feature()}))])
    assert list(decoded.entries[0].features) == ["text"]
    assert decoded.num_features_ignored == 1


def test_raw_content_is_counted_where_no_feature_stands_for_it(decoder):
    content = {"text": Content(text="hello"), "image": Content(data=b"\x89PNG")}
    decoded = decoder.decode([record(message(content=content))])
    assert isinstance(decoded.entries[0], Item)
    assert decoded.num_content_ignored == 1


def test_decoding_together_equals_decoding_one_by_one(decoder):
    records = [
        record(value, offset=offset)
        for offset, value in enumerate(
            [message(), None, b"x", unchecked(float("inf")), item_value("a"), message(revision=2)]
        )
    ]
    together = decoder.decode(records).entries
    assert together == [decoder.decode([each]).entries[0] for each in records]
